//! JSON by schema alone says the same as serde and postcard by type.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::collections::BTreeMap;

use postcard_schema::Schema;
use postcard_schema::schema::owned::{OwnedDataModelType as Ty, OwnedNamedType, OwnedNamedValue};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_contract::dynamic::{ShapeError, bytes_to_json, json_to_bytes, shape};
use weft_contract::{Message, TypeSchema, encode};
use weft_types::{Lane, NodeName, PerLane, Sequence};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema, Message)]
struct Order {
    id: u64,
    customer: Option<String>,
    lines: Vec<Line>,
    tags: BTreeMap<String, u16>,
    payments: BTreeMap<i32, Payment>,
    kinds: BTreeMap<Kind, bool>,
    ratios: (f64, f32),
    corner: Corner,
    nothing: (),
    end: End,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
struct Line {
    key: String,
    count: u32,
    delta: (i8, i16, i32, i64),
    narrow: (u8, u16, bool, char),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
enum Payment {
    Cash,
    Card(String),
    Transfer { account: NodeName, amount: u128 },
    Split(u8, i128),
    Tried(Result<u32, String>),
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize, Schema)]
enum Kind {
    Old,
    New,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
struct Corner(PerLane<Sequence>, Lane);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
struct End;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema, Message)]
struct Blob {
    name: String,
    #[serde(with = "weft_contract::bytes")]
    whole: Vec<u8>,
    parts: Vec<Vec<u8>>,
    #[serde(with = "weft_contract::optional_bytes")]
    maybe: Option<Vec<u8>>,
}

fn schema_of<T: Schema>() -> OwnedNamedType {
    T::SCHEMA.into()
}

fn bytes_of<M: Message>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes).unwrap();
    bytes
}

prop_compose! {
    fn line()(
        key in ".{0,8}",
        count: u32,
        delta: (i8, i16, i32, i64),
        narrow: (u8, u16, bool, char),
    ) -> Line {
        Line { key, count, delta, narrow }
    }
}

fn payment() -> impl Strategy<Value = Payment> {
    // serde_json has no numbers beyond 64 bits; those are tested by themselves.
    prop_oneof![
        Just(Payment::Cash),
        ".{0,8}".prop_map(Payment::Card),
        ("[a-z0-9]{1,40}", any::<u64>()).prop_map(|(account, amount)| Payment::Transfer {
            account: NodeName::new(account).unwrap(),
            amount: amount.into(),
        }),
        any::<(u8, i64)>().prop_map(|(a, b)| Payment::Split(a, b.into())),
        any::<u32>().prop_map(|ok| Payment::Tried(Ok(ok))),
        ".{0,8}".prop_map(|error| Payment::Tried(Err(error))),
    ]
}

prop_compose! {
    fn order()(
        id: u64,
        customer in proptest::option::of(".{0,12}"),
        lines in proptest::collection::vec(line(), 0..4),
        tags in proptest::collection::btree_map(".{0,6}", any::<u16>(), 0..4),
        payments in proptest::collection::btree_map(any::<i32>(), payment(), 0..4),
        old in proptest::option::of(any::<bool>()),
        new in proptest::option::of(any::<bool>()),
        ratios in (proptest::num::f64::NORMAL | proptest::num::f64::ZERO, proptest::num::f32::NORMAL),
        corner in (any::<[u64; 4]>(), 0u8..4),
    ) -> Order {
        let kinds = [(Kind::Old, old), (Kind::New, new)];
        Order {
            id,
            customer,
            lines,
            tags,
            payments,
            kinds: kinds.into_iter().filter_map(|(k, v)| Some((k, v?))).collect(),
            ratios,
            corner: Corner(PerLane(corner.0.map(Sequence::new)), Lane::new(corner.1).unwrap()),
            nothing: (),
            end: End,
        }
    }
}

prop_compose! {
    fn blob()(
        name in ".{0,8}",
        whole: Vec<u8>,
        parts in proptest::collection::vec(prop_oneof![
            any::<Vec<u8>>(),
            ".{0,8}".prop_map(String::into_bytes),
        ], 0..4),
        maybe: Option<Vec<u8>>,
    ) -> Blob {
        Blob { name, whole, parts, maybe }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_by_schema_is_what_serde_and_postcard_say(order in order()) {
        let schema = schema_of::<Order>();
        let json = serde_json::to_value(&order).unwrap();
        let bytes = bytes_of(&order);
        prop_assert_eq!(&json_to_bytes(&schema, &json).unwrap(), &bytes);
        let back = bytes_to_json(&schema, &bytes).unwrap();
        prop_assert_eq!(&back, &json);
        prop_assert_eq!(serde_json::from_value::<Order>(back).unwrap(), order);
    }

    #[test]
    fn bytes_survive_as_text_or_as_numbers(blob in blob()) {
        let schema = schema_of::<Blob>();
        let bytes = bytes_of(&blob);
        let as_numbers = serde_json::to_value(&blob).unwrap();
        prop_assert_eq!(&json_to_bytes(&schema, &as_numbers).unwrap(), &bytes);
        let printed = bytes_to_json(&schema, &bytes).unwrap();
        prop_assert_eq!(printed["whole"].is_string(), std::str::from_utf8(&blob.whole).is_ok());
        prop_assert_eq!(&json_to_bytes(&schema, &printed).unwrap(), &bytes);
    }

    #[test]
    fn garbled_bytes_are_refused_or_read_as_typed_code_reads_them(
        order in order(),
        place: prop::sample::Index,
        byte: u8,
        cut: prop::sample::Index,
    ) {
        let schema = schema_of::<Order>();
        let mut bytes = bytes_of(&order);
        let at = place.index(bytes.len());
        bytes[at] = byte;
        let typed = weft_contract::decode::<Order>(&bytes);
        let json = bytes_to_json(&schema, &bytes);
        if typed.is_ok() {
            // Only a key that comes twice is refused here and not there.
            prop_assert!(json.is_ok() || json.unwrap_err().to_string().contains("twice"));
        }
        let end = cut.index(bytes.len());
        let _ = bytes_to_json(&schema, &bytes[..end]);
    }

    #[test]
    fn bytes_from_nowhere_never_panic(bytes: Vec<u8>) {
        let schema = schema_of::<Order>();
        if let Ok(json) = bytes_to_json(&schema, &bytes) {
            // Varints have several encodings, values one.
            let canonical = json_to_bytes(&schema, &json).unwrap();
            prop_assert_eq!(bytes_to_json(&schema, &canonical).unwrap(), json);
        }
    }
}

#[derive(Serialize, Deserialize, Schema, Message)]
struct Put {
    key: String,
    value: Vec<u8>,
    lease: Option<u64>,
    wrap: Wrap,
}

#[derive(Serialize, Deserialize, Schema)]
struct Wrap {
    items: Vec<Item>,
}

#[derive(Serialize, Deserialize, Schema)]
struct Item {
    key: u16,
    choice: Option<Choice>,
}

#[derive(Serialize, Deserialize, Schema)]
enum Choice {
    A,
    B(u32),
    C { x: i8, names: [char; 2] },
}

fn put() -> Value {
    json!({ "key": "k", "value": "v", "wrap": { "items": [{ "key": 1, "choice": "A" }] } })
}

fn refused(change: impl FnOnce(&mut Value)) -> ShapeError {
    let mut json = put();
    change(&mut json);
    json_to_bytes(&schema_of::<Put>(), &json).unwrap_err()
}

#[test]
fn a_refusal_says_where_and_what_was_found_and_what_belongs_there() {
    assert!(json_to_bytes(&schema_of::<Put>(), &put()).is_ok());

    let error = refused(|json| json["wrap"]["items"][0]["key"] = json!("one"));
    assert_eq!(
        error.to_string(),
        "wrap.items[0].key: found the string \"one\", expected u16"
    );
    let error = refused(|json| json["wrap"]["items"][0]["key"] = json!(70_000));
    assert_eq!(
        error.to_string(),
        "wrap.items[0].key: 70000 is out of range for u16 (0 to 65535)"
    );
    let error = refused(|json| json["wrap"]["items"][0]["kye"] = json!(1));
    assert_eq!(
        error.to_string(),
        "wrap.items[0]: there is no field \"kye\" here; expected { key: u16, choice: \
         (\"A\" | {\"B\": u32} | {\"C\": { x: i8, names: [char; 2] }})? }"
    );
    assert!(matches!(error, ShapeError::UnknownField { known, .. } if known == ["key", "choice"]));
    let error = refused(|json| {
        json.as_object_mut().unwrap().remove("value");
    });
    assert_eq!(error.to_string(), "value: missing; expected bytes");
    let error = refused(|json| *json = json!([1]));
    assert!(
        error
            .to_string()
            .starts_with("the message: found an array of 1, expected { key")
    );
}

#[test]
fn numbers_are_taken_exactly_or_not_at_all() {
    let with = |key: Value| {
        let mut json = put();
        json["wrap"]["items"][0]["key"] = key;
        json_to_bytes(&schema_of::<Put>(), &json)
    };
    assert!(with(json!(65_535)).is_ok());
    for out in [json!(-1), json!(65_536), json!(u64::MAX), json!(1e30)] {
        assert!(matches!(with(out), Err(ShapeError::OutOfRange { .. })));
    }
    for wrong in [
        json!(1.0),
        json!(1.5),
        json!(true),
        json!(null),
        json!("7"),
        json!([7]),
    ] {
        assert!(
            matches!(with(wrong.clone()), Err(ShapeError::WrongType { .. })),
            "{wrong}"
        );
    }
}

#[test]
fn a_byte_out_of_range_is_found_in_the_middle_of_others() {
    let error = refused(|json| json["value"] = json!([1, 2, 256]));
    assert_eq!(
        error.to_string(),
        "value[2]: 256 is out of range for u8 (0 to 255)"
    );
}

#[test]
fn choices_are_checked_by_name_and_content() {
    let choose =
        |choice: Value| refused(|json| json["wrap"]["items"][0]["choice"] = choice).to_string();
    assert!(choose(json!("D")).contains("found the string \"D\", expected \"A\" | "));
    assert!(choose(json!({ "A": 1 })).contains("choice.A: found the number 1"));
    assert!(choose(json!({ "A": null, "B": 1 })).contains("an object with 2 fields"));
    assert!(choose(json!({ "C": { "x": 1, "names": ["ab", "c"] } })).contains("choice.C.names[0]"));
    assert!(choose(json!({ "C": { "x": 1, "names": ["a"] } })).contains("expected [char; 2]"));
    assert!(choose(json!("B")).contains("choice.B: found null, expected u32"));
}

#[test]
fn numbers_that_json_does_not_have_are_strings() {
    #[derive(Debug, PartialEq, Serialize, Deserialize, Schema, Message)]
    struct Odd {
        huge: u128,
        deep: i128,
        floats: [f64; 3],
        single: f32,
    }
    let odd = Odd {
        huge: u128::MAX,
        deep: i128::MIN,
        floats: [f64::INFINITY, f64::NEG_INFINITY, 0.5],
        single: f32::INFINITY,
    };
    let schema = schema_of::<Odd>();
    let json = bytes_to_json(&schema, &bytes_of(&odd)).unwrap();
    assert_eq!(json["huge"], json!(u128::MAX.to_string()));
    assert_eq!(json["floats"], json!(["inf", "-inf", 0.5]));
    assert_eq!(json_to_bytes(&schema, &json).unwrap(), bytes_of(&odd));

    let mut more = json.clone();
    more["huge"] = json!("340282366920938463463374607431768211456");
    let error = json_to_bytes(&schema, &more).unwrap_err();
    assert!(matches!(error, ShapeError::OutOfRange { .. }), "{error}");
    let mut more = json;
    more["single"] = json!(1e300);
    let error = json_to_bytes(&schema, &more).unwrap_err();
    assert!(matches!(error, ShapeError::OutOfRange { .. }), "{error}");
}

#[test]
fn a_shape_tells_in_one_line_what_to_write() {
    assert_eq!(
        shape(&schema_of::<Put>()),
        "Put { key: string, value: bytes, lease: u64?, wrap: { items: [{ key: u16, choice: \
         (\"A\" | {\"B\": u32} | {\"C\": { x: i8, names: [char; 2] }})? }] } }"
    );
    assert_eq!(shape(&schema_of::<End>()), "End: null");
    assert_eq!(shape(&schema_of::<Corner>()), "Corner: [[u64; 4], u8]");
}

/// A struct with one byte and very many fields that take none: cheap to send, dear to print.
fn swollen() -> OwnedNamedType {
    let field = |name: String, ty| OwnedNamedValue {
        name,
        ty: OwnedNamedType {
            name: String::new(),
            ty,
        },
    };
    let mut fields = vec![field("b".into(), Ty::U8)];
    fields.extend((0..1000).map(|n| field(format!("unit-{n}"), Ty::Unit)));
    let element = OwnedNamedType {
        name: "Element".into(),
        ty: Ty::Struct(fields),
    };
    OwnedNamedType {
        name: "Swollen".into(),
        ty: Ty::Seq(Box::new(element)),
    }
}

#[test]
fn bytes_that_swell_are_stopped() {
    let schema = swollen();
    let encoded = postcard::to_stdvec(&schema).unwrap();
    assert!(
        TypeSchema::decode(&encoded).is_ok(),
        "a peer may send such a schema"
    );
    let mut bytes = postcard::to_stdvec(&90_000u64).unwrap();
    bytes.resize(90_003, 0);
    assert!(matches!(
        bytes_to_json(&schema, &bytes),
        Err(ShapeError::TooLarge { .. })
    ));
    assert!(shape(&schema).len() < 5000);
}

#[test]
fn a_list_of_nothing_is_not_believed() {
    let unit = OwnedNamedType {
        name: "()".into(),
        ty: Ty::Unit,
    };
    let schema = OwnedNamedType {
        name: "List".into(),
        ty: Ty::Seq(Box::new(unit)),
    };
    let claim = postcard::to_stdvec(&u64::MAX).unwrap();
    assert!(matches!(
        bytes_to_json(&schema, &claim),
        Err(ShapeError::BadBytes { .. })
    ));
}

#[test]
fn a_bottomless_schema_is_given_up() {
    let mut schema = OwnedNamedType {
        name: "u8".into(),
        ty: Ty::Bool,
    };
    for _ in 0..500 {
        schema = OwnedNamedType {
            name: String::new(),
            ty: Ty::Option(Box::new(schema)),
        };
    }
    let deep = bytes_to_json(&schema, &[1; 501]);
    assert!(matches!(deep, Err(ShapeError::TooDeep { .. })));
    assert!(matches!(
        json_to_bytes(&schema, &json!(true)),
        Err(ShapeError::TooDeep { .. })
    ));
    assert!(shape(&schema).contains("..."));
}

#[test]
fn a_message_that_is_too_large_is_refused_while_it_grows() {
    let mut json = put();
    json["key"] = json!("x".repeat(100_000));
    let error = json_to_bytes(&schema_of::<Put>(), &json).unwrap_err();
    assert!(matches!(error, ShapeError::TooLarge { .. }), "{error}");
}

#[test]
fn maps_that_json_cannot_write_are_refused_both_ways() {
    let schema = schema_of::<BTreeMap<(u8, u8), u8>>();
    assert!(matches!(
        bytes_to_json(&schema, &[0]),
        Err(ShapeError::NotInJson { .. })
    ));
    assert!(matches!(
        json_to_bytes(&schema, &json!({})),
        Err(ShapeError::NotInJson { .. })
    ));
}
