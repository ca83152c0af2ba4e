//! Contract `kv`: an ordered map from strings to bytes.
//!
//! Keys are ordered by their bytes. The map counts its changes: each `Put`, and each `Delete` that
//! found something, raises the *revision* by one; the *version* of an entry says how often its key
//! was written since it was last absent.
//!
//! The bounds below are the service's to enforce: a request that breaks one is refused with
//! `TooLarge` and changes nothing.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Message, contract};

/// The longest key, in bytes. An empty key is a key like any other.
pub const MAX_KEY_BYTES: usize = 1024;

/// The longest value, in bytes. Key and value fit into one message with room to spare.
pub const MAX_VALUE_BYTES: usize = 60 * 1024;

/// The most entries in one [`ScanReply`], whatever its request asks for. The reply also ends before
/// it outgrows a message.
pub const MAX_SCAN_ENTRIES: u32 = 1024;

/// Writes a value under a key, in place of what is there.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.Put")]
pub struct Put {
    /// At most [`MAX_KEY_BYTES`].
    pub key: String,
    /// At most [`MAX_VALUE_BYTES`].
    #[serde(with = "weft_contract::bytes")]
    pub value: Vec<u8>,
}

/// The value is written.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.PutReply")]
pub struct PutReply {
    /// What was there before.
    #[serde(with = "weft_contract::optional_bytes")]
    pub previous: Option<Vec<u8>>,
    /// The map's revision after this change.
    pub revision: u64,
    /// How often this key has been written, this time included.
    pub version: u64,
}

/// Reads the value under a key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.Get")]
pub struct Get {
    /// At most [`MAX_KEY_BYTES`].
    pub key: String,
}

/// What is under the key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.GetReply")]
pub struct GetReply {
    /// Nothing if the key is absent.
    pub entry: Option<Entry>,
}

/// A value and where it stands in the history of the map.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct Entry {
    /// The value.
    #[serde(with = "weft_contract::bytes")]
    pub value: Vec<u8>,
    /// The map's revision when it was written.
    pub revision: u64,
    /// How often its key had been written by then.
    pub version: u64,
}

/// Removes a key and its value.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.Delete")]
pub struct Delete {
    /// At most [`MAX_KEY_BYTES`].
    pub key: String,
}

/// The key is absent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.DeleteReply")]
pub struct DeleteReply {
    /// What was removed; nothing if the key was absent already.
    #[serde(with = "weft_contract::optional_bytes")]
    pub previous: Option<Vec<u8>>,
}

/// Reads entries in the order of their keys.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.Scan")]
pub struct Scan {
    /// Only keys that begin with this; all keys if it is empty.
    pub prefix: String,
    /// Only keys behind this one: the last key of the previous reply, to go on from there.
    pub after: Option<String>,
    /// At most so many entries, and at most [`MAX_SCAN_ENTRIES`].
    pub limit: u32,
}

/// Some entries in the order of their keys.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.ScanReply")]
pub struct ScanReply {
    /// The entries. Fewer than the limit if more would not fit into a message.
    pub entries: Vec<KeyEntry>,
    /// Whether more keys with the prefix follow the last one here.
    pub more: bool,
}

/// A key with its value.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct KeyEntry {
    /// The key.
    pub key: String,
    /// The value.
    #[serde(with = "weft_contract::bytes")]
    pub value: Vec<u8>,
    /// The map's revision when the value was written.
    pub revision: u64,
    /// How often the key had been written by then.
    pub version: u64,
}

/// Counts the keys that begin with a prefix.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.Count")]
pub struct Count {
    /// All keys if it is empty.
    pub prefix: String,
}

/// How many keys there are.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.CountReply")]
pub struct CountReply {
    /// The number of keys.
    pub count: u64,
}

/// Asks for a digest over all entries whose key begins with a prefix: two maps with the same
/// digest hold the same.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.Digest")]
pub struct Digest {
    /// All keys if it is empty.
    pub prefix: String,
}

/// The digest of the entries.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.DigestReply")]
pub struct DigestReply {
    /// SHA-256 in lower-case hex, over the entries in the order of their keys: for each the length
    /// of the key and the key, the length of the value and the value, and the version (lengths and
    /// version as 8 bytes, little endian).
    pub sha256: String,
    /// How many entries went in.
    pub count: u64,
}

contract! {
    /// An ordered map from strings to bytes.
    pub contract Kv("kv", 1) as KvRequest {
        Put => PutReply,
        Get => GetReply,
        Delete => DeleteReply,
        Scan => ScanReply,
        Count => CountReply,
        Digest => DigestReply,
    }
}

#[cfg(test)]
mod tests {
    use weft_contract::{Accepts, Contract, decode, encode};

    use super::*;

    #[test]
    fn the_largest_entry_fits_into_a_message_both_ways() {
        let key = "k".repeat(MAX_KEY_BYTES);
        let value = vec![0xff; MAX_VALUE_BYTES];
        let put = Put {
            key: key.clone(),
            value: value.clone(),
        };
        let mut body = Vec::new();
        encode(&put, &mut body).unwrap();
        assert_eq!(decode(&body), Ok(put));

        let scan = ScanReply {
            entries: vec![KeyEntry {
                key,
                value,
                revision: u64::MAX,
                version: u64::MAX,
            }],
            more: true,
        };
        encode(&scan, &mut Vec::new()).unwrap();
    }

    #[test]
    fn every_request_is_decoded_as_itself() {
        let mut body = Vec::new();
        let scan = Scan {
            prefix: "user/".into(),
            after: None,
            limit: 10,
        };
        encode(&scan, &mut body).unwrap();
        let request = Kv::decode(<Kv as Accepts<Scan>>::INDEX, &body).unwrap();
        assert!(matches!(request, KvRequest::Scan(read) if read == scan));
        assert_eq!(Kv::table().entries.len(), 6);
    }

    #[test]
    fn a_published_contract_does_not_change_by_accident() {
        let types: Vec<String> = Kv::table()
            .entries
            .iter()
            .map(|entry| format!("{} => {}", entry.request, entry.reply))
            .collect();
        assert_eq!(
            types,
            [
                "kv.Put v1 (b97da8f5cf2ccd5b) => kv.PutReply v1 (4a0a8945dd1bf908)",
                "kv.Get v1 (f13d97aa766f8829) => kv.GetReply v1 (7fe97b7713d80829)",
                "kv.Delete v1 (6d5659a736dcae07) => kv.DeleteReply v1 (6ceb4d48dcc83f51)",
                "kv.Scan v1 (31a6d72c4b32a573) => kv.ScanReply v1 (b957e42f10d20896)",
                "kv.Count v1 (0f93c363904f59b5) => kv.CountReply v1 (5153c58ee6f3544d)",
                "kv.Digest v1 (6af9a46c91dff0e7) => kv.DigestReply v1 (db614f43a636dc52)",
            ]
        );
    }
}
