//! `#[derive(Message)]`: gives a type its name and version, and refuses what could not be sent.
//!
//! The derive writes one impl and a handful of compile-time checks. It sees one item only, so it
//! refuses what would let the bytes drift away from the schema: serde attributes that change the
//! encoding behind the back of `Schema`, and type parameters, which would put many shapes under one
//! name. What needs the whole type (nesting, elements without bytes) is checked by the constants
//! that it writes into the caller's crate.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::{
    Attribute, Data, DeriveInput, Error, Fields, Ident, LitInt, LitStr, Path, Result, Token,
};

/// The longest name of a message type, in bytes. The contract crate has the same number and checks
/// that the two agree, since a proc-macro crate can export nothing but macros.
const MAX_NAME_BYTES: usize = 64;

/// Serde attributes that change the bytes (or the JSON) in ways that `Schema` does not see.
const UNSEEN_BY_SCHEMA: &[&str] = &[
    "content",
    "deserialize_with",
    "flatten",
    "from",
    "into",
    "other",
    "remote",
    "rename_all",
    "rename_all_fields",
    "serialize_with",
    "skip",
    "skip_deserializing",
    "skip_serializing",
    "skip_serializing_if",
    "tag",
    "try_from",
    "untagged",
];

/// The modules that `#[serde(with = "..")]` may name: they keep the bytes that the schema says.
const WITH_ALLOWED: &[&str] = &["bytes", "optional_bytes"];

/// Makes a struct or enum something that can be sent.
///
/// The type also derives `Serialize`, `Deserialize` and `Schema`. All parts of the attribute are
/// optional: `#[message(name = "kv.Put", version = 2, crate = some::path)]`. The name is the
/// type's own unless given, the version 1, and the crate `::weft_contract`.
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    expand(&input)
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

fn expand(input: &DeriveInput) -> Result<Tokens> {
    refuse_unsendable(input)?;
    let ident = &input.ident;
    let options = Options::parse(ident, &input.attrs)?;
    let Options {
        name,
        version,
        root,
    } = options;
    Ok(quote! {
        impl #root::Message for #ident {
            const NAME: &'static str = #name;
            const VERSION: u16 = #version;
        }

        const _: () = #root::check::assert_sendable::<#ident>();
    })
}

/// What `#[message(..)]` says, with its defaults filled in.
struct Options {
    name: String,
    version: u16,
    root: Path,
}

impl Options {
    fn parse(ident: &Ident, attributes: &[Attribute]) -> Result<Self> {
        let mut options = Self {
            name: ident.to_string(),
            version: 1,
            root: syn::parse_quote!(::weft_contract),
        };
        for attribute in attributes.iter().filter(|a| a.path().is_ident("message")) {
            attribute.parse_nested_meta(|meta| options.take(&meta))?;
        }
        if !is_name(&options.name) {
            return Err(Error::new(
                ident.span(),
                format!(
                    "a message's name is 1 to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, '.', '_', '-'"
                ),
            ));
        }
        Ok(options)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        if meta.path.is_ident("name") {
            self.name = meta.value()?.parse::<LitStr>()?.value();
        } else if meta.path.is_ident("version") {
            let literal: LitInt = meta.value()?.parse()?;
            self.version = literal.base10_parse()?;
            if self.version == 0 {
                return Err(Error::new(literal.span(), "versions count from 1"));
            }
        } else if meta.path.is_ident("crate") {
            self.root = meta.value()?.parse()?;
        } else {
            return Err(meta.error("`#[message(..)]` knows `name`, `version` and `crate`"));
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn refuse_unsendable(input: &DeriveInput) -> Result<()> {
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.generics,
            "a message has no parameters: one name stands for one shape",
        ));
    }
    refuse_serde(&input.attrs)?;
    match &input.data {
        Data::Struct(item) => refuse_serde_in(&item.fields),
        Data::Enum(item) => item.variants.iter().try_for_each(|variant| {
            refuse_serde(&variant.attrs)?;
            refuse_serde_in(&variant.fields)
        }),
        Data::Union(item) => Err(Error::new(
            item.union_token.span,
            "a union has no schema and cannot be a message",
        )),
    }
}

fn refuse_serde_in(fields: &Fields) -> Result<()> {
    fields
        .iter()
        .try_for_each(|field| refuse_serde(&field.attrs))
}

fn refuse_serde(attributes: &[Attribute]) -> Result<()> {
    for attribute in attributes.iter().filter(|a| a.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            let refused = UNSEEN_BY_SCHEMA.iter().any(|name| meta.path.is_ident(name));
            if refused || (meta.path.is_ident("rename") && !meta.input.peek(Token![=])) {
                return Err(meta.error(
                    "the schema does not see this attribute, so the bytes of a message would not \
                     be what its fingerprint says",
                ));
            }
            if meta.path.is_ident("with") {
                let module: LitStr = meta.value()?.parse()?;
                let path = module.value();
                let last = path.rsplit("::").next().unwrap_or_default();
                if !WITH_ALLOWED.contains(&last) {
                    return Err(Error::new(
                        module.span(),
                        "only the contract crate's `bytes` and `optional_bytes` keep what the schema says",
                    ));
                }
                return Ok(());
            }
            skip_value(&meta)
        })?;
    }
    Ok(())
}

/// Steps over the value of an attribute that is none of our business.
fn skip_value(meta: &ParseNestedMeta<'_>) -> Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<syn::Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        meta.parse_nested_meta(|inner| skip_value(&inner))?;
    }
    Ok(())
}
