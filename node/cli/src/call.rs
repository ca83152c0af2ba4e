//! `weft call`, `weft send` and `weft describe`: talking to a service whose types we do not have.

use std::io::Read as _;
use std::time::Instant;

use serde_json::{Value, json};
use weft::DynamicEndpoint;
use weft_contract::dynamic::{ShapeError, bytes_to_json, json_to_bytes, shape};
use weft_contract::{ContractDescription, MessageDescription};
use weft_types::{MAX_BODY_BYTES, RefusalCode, ServiceName};

use crate::arguments::{CallArgs, DescribeArgs, Global};
use crate::connection::Connection;
use crate::control::with_known_services;
use crate::error::CliError;
use crate::layout::fold;
use crate::output::Output;
use crate::suggest::did_you_mean;

/// The most JSON that is read from stdin: JSON takes up to four bytes for one of the message.
const MAX_JSON_BYTES: u64 = 8 * MAX_BODY_BYTES as u64;

/// Whether the reply is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Want {
    Reply,
    Nothing,
}

/// Sends one message, and prints its reply if it is wanted.
pub(crate) fn call(args: &CallArgs, want: Want, global: &Global) -> Result<Output, CliError> {
    // The JSON's syntax is ours to check, before anything is asked of anybody.
    let fields = parse(&args.fields)?;
    let connection = Connection::attach(global)?;
    let mut endpoint = open(&connection, &args.service)?;
    if let Some(lane) = args.lane {
        endpoint = endpoint.on_lane(lane);
    }
    let message = find(endpoint.description(), &args.service, &args.message)?.clone();
    let body = json_to_bytes(&message.request.schema, &fields)
        .map_err(|error| does_not_fit(&error, &message))?;
    let name = message.request.name.as_str();
    let asked = Instant::now();
    if want == Want::Nothing {
        endpoint.tell(name, &body, global.timeout)?;
        return Ok(Output::new(
            format!("{} has handled {name}", args.service),
            json!({ "service": args.service.as_str(), "message": name, "handled": true }),
        ));
    }
    let reply = endpoint.call(name, &body, global.timeout)?;
    let milliseconds = asked.elapsed().as_micros() as f64 / 1000.0;
    let reply = bytes_to_json(&message.reply.schema, &reply).map_err(|error| {
        let text = format!(
            "the reply of {} is not what it declares: {error}",
            args.service
        );
        CliError::refused(RefusalCode::PeerFault, text)
    })?;
    Ok(Output::new(
        format!("{reply:#}"),
        json!({
            "service": args.service.as_str(),
            "message": name,
            "reply": reply,
            "milliseconds": milliseconds,
        }),
    ))
}

/// Shows what a service understands.
pub(crate) fn describe(args: &DescribeArgs, global: &Global) -> Result<Output, CliError> {
    let connection = Connection::attach(global)?;
    let endpoint = open(&connection, &args.service)?;
    Ok(describe_contract(&args.service, endpoint.description()))
}

fn describe_contract(service: &ServiceName, contract: &ContractDescription) -> Output {
    let mut text = format!(
        "{service} speaks contract {} version {}\n",
        contract.name, contract.version
    );
    let mut messages = Vec::new();
    for message in &contract.messages {
        let (request, reply) = (shape(&message.request.schema), shape(&message.reply.schema));
        text.push_str(&format!(
            "\n{} (version {})\n  {}\n  => {}\n",
            message.request.name,
            message.request.version,
            fold(&request, 2),
            fold(&reply, 5),
        ));
        messages.push(json!({
            "message": message.request.name,
            "version": message.request.version,
            "shape": request,
            "reply": message.reply.name,
            "reply_shape": reply,
        }));
    }
    let json = json!({
        "service": service.as_str(),
        "contract": contract.name.as_str(),
        "version": contract.version,
        "messages": messages,
    });
    Output::new(text, json)
}

fn open(connection: &Connection, service: &ServiceName) -> Result<DynamicEndpoint, CliError> {
    connection
        .open_dynamic(service)
        .map_err(|error| with_known_services(error, connection, service))
}

/// JSON from the command line, or from stdin if it is `-`.
fn parse(fields: &str) -> Result<Value, CliError> {
    let mut from_stdin = String::new();
    let text = if fields == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_JSON_BYTES)
            .read_to_string(&mut from_stdin)
            .map_err(|error| CliError::usage(format!("the fields on stdin: {error}")))?;
        &from_stdin
    } else {
        fields
    };
    serde_json::from_str(text).map_err(|error| {
        CliError::usage(format!(
            "the fields are not JSON: {error}\nwrite them as '{{\"key\": \"greeting\"}}', in single quotes \
             so that the shell leaves them alone"
        ))
    })
}

fn find<'a>(
    contract: &'a ContractDescription,
    service: &ServiceName,
    name: &str,
) -> Result<&'a MessageDescription, CliError> {
    if let Some((_, message)) = contract.message(name) {
        return Ok(message);
    }
    let known: Vec<&str> = contract
        .messages
        .iter()
        .map(|message| message.request.name.as_str())
        .collect();
    Err(CliError::refused(
        RefusalCode::UnknownMessage,
        format!(
            "{service} has no message {name}{}\nit understands {}; `weft describe {service}` shows their fields",
            did_you_mean(name, known.iter().copied()),
            known.join(", ")
        ),
    ))
}

/// Says where the JSON does not fit, and what would.
fn does_not_fit(error: &ShapeError, message: &MessageDescription) -> CliError {
    let hint = match error {
        ShapeError::UnknownField { field, known, .. } => {
            did_you_mean(field, known.iter().map(String::as_str))
        }
        _ => String::new(),
    };
    CliError::usage(format!(
        "{error}{hint}\n{} looks like this: {}",
        message.request.name,
        shape(&message.request.schema)
    ))
}

#[cfg(test)]
mod tests {
    use kv_messages::Kv;
    use weft_contract::Contract as _;

    use super::*;
    use crate::error::Exit;

    fn kv() -> ServiceName {
        ServiceName::new("kv").unwrap()
    }

    fn encode(message: &str, fields: &str) -> Result<Vec<u8>, CliError> {
        let contract = Kv::description();
        let message = find(&contract, &kv(), message)?;
        json_to_bytes(&message.request.schema, &parse(fields)?)
            .map_err(|error| does_not_fit(&error, message))
    }

    #[test]
    fn fields_become_the_bytes_of_the_typed_message() {
        let put = kv_messages::Put {
            key: "a".to_owned(),
            value: b"b".to_vec(),
        };
        let mut bytes = Vec::new();
        weft_contract::encode(&put, &mut bytes).unwrap();
        assert_eq!(
            encode("Put", r#"{"key": "a", "value": "b"}"#).unwrap(),
            bytes
        );
        assert_eq!(
            encode("kv.Put", r#"{"value": [98], "key": "a"}"#).unwrap(),
            bytes
        );
    }

    #[test]
    fn an_unknown_message_is_refused_with_the_near_one_and_all_others() {
        let error = encode("Puts", "{}").unwrap_err();
        assert_eq!(
            (error.exit(), error.code()),
            (Exit::Refused, "unknown_message")
        );
        let text = error.to_string();
        assert!(text.contains("did you mean `kv.Put`?"), "{text}");
        assert!(
            text.contains("kv.Digest") && text.contains("weft describe kv"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_near_one_and_the_shape() {
        let error = encode("Put", r#"{"kee": "a", "value": "b"}"#).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        let text = error.to_string();
        assert!(text.contains("did you mean `key`?"), "{text}");
        assert!(
            text.contains("kv.Put looks like this: Put { key: string"),
            "{text}"
        );
    }

    #[test]
    fn a_wrong_type_says_where_and_what_was_expected() {
        let text = encode("Scan", r#"{"prefix": "", "limit": "ten"}"#)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("limit") && text.contains("u32") && text.contains("ten"),
            "{text}"
        );
        let text = encode("Get", "{}").unwrap_err().to_string();
        assert!(text.contains("key") && text.contains("missing"), "{text}");
    }

    #[test]
    fn what_is_not_json_is_a_usage_error_that_shows_the_quoting() {
        let error = parse("{key: a}").unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().contains("single quotes"), "{error}");
    }

    #[test]
    fn a_description_shows_every_message_with_its_reply() {
        let output = describe_contract(&kv(), &Kv::description());
        assert!(
            output.text.contains("kv.Delete (version 1)"),
            "{}",
            output.text
        );
        assert!(output.text.contains("=> DeleteReply"), "{}", output.text);
        assert_eq!(output.json["messages"].as_array().unwrap().len(), 6);
        assert_eq!(output.json["messages"][0]["reply"], "kv.PutReply");
    }
}
