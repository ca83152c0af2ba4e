//! How names stand in certificates.
//!
//! A node is `spiffe://<cluster>/node/<name>` and, because rustls checks DNS names, also
//! `<name>.node.<cluster>`. A service is `spiffe://<cluster>/svc/<name>`; the daemon of a node, as
//! a holder of capabilities, is the service `node/<name>`. An authority is `spiffe://<cluster>`.
//!
//! X.509 name constraints do not bind URIs (a CA that is limited to a DNS name may still put any
//! URI into what it signs, and the verifier accepts it), so these forms are checked here.

use weft_types::{ClusterName, NodeName, ServiceName};

/// The URI of a node.
#[must_use]
pub fn node_uri(cluster: &ClusterName, node: &NodeName) -> String {
    format!("spiffe://{cluster}/node/{node}")
}

/// The URI of a service, whichever instance of it.
#[must_use]
pub fn service_uri(cluster: &ClusterName, service: &ServiceName) -> String {
    format!("spiffe://{cluster}/svc/{service}")
}

/// The URI of the authorities of a cluster.
#[must_use]
pub fn cluster_uri(cluster: &ClusterName) -> String {
    format!("spiffe://{cluster}")
}

/// The DNS name under which a node is checked when it is dialled.
#[must_use]
pub fn node_dns_name(cluster: &ClusterName, node: &NodeName) -> String {
    format!("{node}.node.{cluster}")
}

/// Why a name in a certificate is not the name that was looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum NameFault {
    /// It is a proper name, of another cluster.
    Foreign(String),
    /// It is not a name of ours at all.
    Shape(String),
}

/// Takes `spiffe://<cluster><path>` apart and returns the path.
pub(crate) fn path_in<'a>(uri: &'a str, cluster: &ClusterName) -> Result<&'a str, NameFault> {
    let rest = uri
        .strip_prefix("spiffe://")
        .ok_or_else(|| NameFault::Shape(printable(uri)))?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (found, path) = rest.split_at(end);
    if found == cluster.as_str() {
        Ok(path)
    } else if ClusterName::new(found).is_ok() {
        Err(NameFault::Foreign(found.to_owned()))
    } else {
        Err(NameFault::Shape(printable(uri)))
    }
}

pub(crate) fn parse_node_uri(uri: &str, cluster: &ClusterName) -> Result<NodeName, NameFault> {
    path_in(uri, cluster)?
        .strip_prefix("/node/")
        .and_then(|name| NodeName::new(name).ok())
        .ok_or_else(|| NameFault::Shape(printable(uri)))
}

pub(crate) fn parse_service_uri(
    uri: &str,
    cluster: &ClusterName,
) -> Result<ServiceName, NameFault> {
    path_in(uri, cluster)?
        .strip_prefix("/svc/")
        .and_then(|name| ServiceName::new(name).ok())
        .ok_or_else(|| NameFault::Shape(printable(uri)))
}

/// Foreign text, made fit for a log line: escaped and short.
pub(crate) fn printable(text: &str) -> String {
    const SHOWN_CHARS: usize = 96;
    text.chars()
        .take(SHOWN_CHARS)
        .flat_map(char::escape_default)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterName {
        ClusterName::new("demo").unwrap()
    }

    #[test]
    fn a_name_comes_back_from_its_uri() {
        let node = NodeName::new("n1").unwrap();
        let kv = ServiceName::new("shop/kv").unwrap();
        let daemon = ServiceName::of_node(&node);
        assert_eq!(
            parse_node_uri(&node_uri(&cluster(), &node), &cluster()),
            Ok(node)
        );
        for service in [kv, daemon] {
            let uri = service_uri(&cluster(), &service);
            assert_eq!(parse_service_uri(&uri, &cluster()), Ok(service));
        }
    }

    #[test]
    fn a_node_is_never_taken_for_a_service_nor_the_reverse() {
        assert!(parse_service_uri("spiffe://demo/node/n1", &cluster()).is_err());
        assert!(parse_node_uri("spiffe://demo/svc/n1", &cluster()).is_err());
        assert!(parse_node_uri("spiffe://demo/node/n1/x", &cluster()).is_err());
        assert!(parse_node_uri("https://demo/node/n1", &cluster()).is_err());
    }

    #[test]
    fn another_cluster_is_told_from_nonsense() {
        assert_eq!(
            parse_node_uri("spiffe://other/node/n1", &cluster()),
            Err(NameFault::Foreign("other".into()))
        );
        assert!(matches!(
            parse_node_uri("spiffe://demo.evil/node/n1", &cluster()),
            Err(NameFault::Shape(_))
        ));
        assert!(matches!(
            parse_node_uri("spiffe://demo@evil/node/n1", &cluster()),
            Err(NameFault::Shape(_))
        ));
    }
}
