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

/// Stores `value` at `path`. After a success it is on the disk.
///
/// # Errors
///
/// `Storage`, with the path and what the system said (a full disk, most likely): what was there
/// before still is, for certain. `OutcomeUnknown` if the new file is in place and the system could
/// not say that it stays there: after a crash either may be found. Store again.
pub(crate) fn store<T: Serialize>(path: &Path, value: &T) -> Result<(), Refusal> {
    store_by(path, value, File::sync_all)
}

/// [`store`], with the last step given: making the rename durable.
fn store_by<T: Serialize>(
    path: &Path,
    value: &T,
    settle: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), Refusal> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| storage(path, &error))?;
    let directory = replace(path, &text).map_err(|error| storage(path, &error))?;
    settle(&directory).map_err(|error| {
        Refusal::new(
            RefusalCode::OutcomeUnknown,
            format!(
                "{}: written, but whether it stays is not known: {error}",
                path.display()
            ),
        )
    })
}

/// Puts a file with this text in the place of `path`. Gives the directory that holds it, which was
/// opened before: once the file is in place, nothing here can fail any more.
fn replace(path: &Path, text: &[u8]) -> io::Result<File> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(parent)?;
    let beside = path.with_extension("new");
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if let Err(error) = written {
        // A half-written file would only take up the room that is lacking.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    Ok(directory)
}

fn storage(path: &Path, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::Storage, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that hears `Storage` of a commit thaws, so it must not be said of one that a
    /// restarted directory would find.
    #[test]
    fn a_failure_behind_the_rename_does_not_say_that_nothing_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thing.json");
        store(&path, &1).unwrap();
        let fails = |_: &File| Err(io::Error::other("the disk is gone"));
        let refusal = store_by(&path, &2, fails).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::OutcomeUnknown);
        assert_eq!(load::<u32>(&path).unwrap(), Some(2));
    }

    #[test]
    fn a_failure_before_the_rename_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thing.json");
        store(&path, &1).unwrap();
        fs::create_dir(path.with_extension("new")).unwrap();
        assert_eq!(store(&path, &2).unwrap_err().code, RefusalCode::Storage);
        assert_eq!(load::<u32>(&path).unwrap(), Some(1));
    }

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
