//! Small files that survive a crash: written beside, synced, renamed over.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_types::{Refusal, RefusalCode};

/// Reads what was stored at `path`; `None` if nothing was.
///
/// # Errors
///
/// `Storage` if the file is there and cannot be read, or holds something else.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Refusal> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(storage(path, &error)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| storage(path, &error))
}

/// Stores `value` at `path`. After a success it is on the disk; after a failure what was there
/// before still is.
///
/// # Errors
///
/// `Storage`, with the path and what the system said (a full disk, most likely).
pub(crate) fn store<T: Serialize>(path: &Path, value: &T) -> Result<(), Refusal> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| storage(path, &error))?;
    write(path, &text).map_err(|error| storage(path, &error))
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(text)?;
        file.sync_all()
    })();
    if let Err(error) = written {
        // A half-written file would only take up the room that is lacking.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    fs::rename(&beside, path)?;
    // The rename itself is durable once the directory is.
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

fn storage(path: &Path, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::Storage, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_comes_back_and_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thing.json");
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), None);
        store(&path, &vec![1, 2]).unwrap();
        store(&path, &vec![3]).unwrap();
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_is_said_and_loses_nothing() {
        let error = store(Path::new("/dev/full/x"), &1).unwrap_err();
        assert_eq!(error.code, RefusalCode::Storage);
        // A device that is always full takes the bytes' place.
        let error = (|| {
            let mut file = fs::OpenOptions::new().write(true).open("/dev/full")?;
            file.write_all(b"x")?;
            file.sync_all()
        })()
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thing.json");
        fs::write(&path, "not json").unwrap();
        assert_eq!(load::<u32>(&path).unwrap_err().code, RefusalCode::Storage);
        assert_eq!(fs::read(&path).unwrap(), b"not json");
    }
}
