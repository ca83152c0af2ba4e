//! The commands that hold a CA key: `weft ca` and `weft grant`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::json;
use weft_authority::{Authority, AuthorityError, GrantRequest, Validity, write_grant};
use weft_capability::Target;
use weft_cli::arguments::{CaInitArgs, CaNodeArgs, GrantArgs, GrantTarget};
use weft_cli::{CliError, Output};
use weft_types::RefusalCode;

/// How long a node's certificate lives. It is meant to be renewed by hand in this version, so it
/// lives longer than the day that a rotated one would.
const NODE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) fn init(args: &CaInitArgs) -> Result<Output, CliError> {
    Authority::init(&args.dir, &args.cluster, SystemTime::now()).map_err(failed)?;
    Ok(Output::new(
        format!(
            "CA of cluster {} in {}\nnext: weft ca node n1 --dir {} --out n1",
            args.cluster,
            args.dir.display(),
            args.dir.display()
        ),
        json!({ "cluster": args.cluster, "dir": args.dir }),
    ))
}

pub(crate) fn node(args: &CaNodeArgs) -> Result<Output, CliError> {
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(args.node.as_str()));
    let authority = Authority::open(&args.dir).map_err(failed)?;
    let validity = Validity::starting(SystemTime::now(), NODE_LIFE).map_err(failed)?;
    let made = authority
        .issue_node(&args.node, &out, validity)
        .map_err(failed)?;
    Ok(Output::new(
        format!(
            "node {} in {}, valid until {}\nnext: weft node --data {} --listen 127.0.0.1:7001",
            made.name,
            out.display(),
            made.not_after,
            out.display()
        ),
        json!({ "node": made.name, "data": out, "not_after": made.not_after.to_string() }),
    ))
}

pub(crate) fn grant(args: &GrantArgs) -> Result<Output, CliError> {
    let authority = Authority::open(&args.ca).map_err(failed)?;
    let life = Duration::from_secs(u64::from(args.hours) * 3600);
    let target = match &args.target {
        GrantTarget::Service(service) => Target::Service(service.clone()),
        GrantTarget::EveryNode => Target::EveryNode,
    };
    let validity = Validity::starting(SystemTime::now(), life).map_err(failed)?;
    let request = GrantRequest {
        versions: 1..=u16::MAX,
        ..GrantRequest::new(
            args.holder.clone(),
            target.clone(),
            args.contract.clone(),
            1,
            validity,
        )
    };
    let grant = authority.grant(&request).map_err(failed)?;
    let pem = grant.to_pem();
    let mut files = Vec::new();
    for node in &args.to {
        files.push(write_grant(node, &grant).map_err(failed)?);
    }
    let until = validity.not_after();
    let text = if files.is_empty() {
        pem.clone()
    } else {
        let mut text = format!(
            "{} may speak {} to {target} until {until}",
            args.holder, args.contract
        );
        for file in &files {
            text.push_str(&format!("\n  {}", file.display()));
        }
        text
    };
    Ok(Output::new(
        text,
        json!({
            "holder": args.holder,
            "target": target.to_string(),
            "contract": args.contract,
            "not_after": until.to_string(),
            "files": files,
            "certificate": pem,
        }),
    ))
}

fn failed(error: AuthorityError) -> CliError {
    match &error {
        AuthorityError::NotEmpty(_) => CliError::refused(RefusalCode::AlreadyThere, error),
        AuthorityError::Io { .. } => CliError::refused(RefusalCode::Storage, error),
        _ => CliError::usage(error),
    }
}
