//! The homeserver's own signing keys on disk: one key per file, mode 0600, never overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ahoy_proto::key::SigningKey;
use ahoy_proto::time::Entropy;
use zeroize::Zeroizing;

/// Why a key or another file of the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file system said no.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Somebody else could have read the key.
    #[error("{} has mode {mode:o}, so that others can read it: run `chmod 600` on it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a key.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: ahoy_proto::key::KeyError,
    },
}

/// Reads the key in `path`; `None` when there is no such file.
pub fn load(path: &Path) -> Result<Option<SigningKey>, KeyFileError> {
    let failed = |error| KeyFileError::File { path: path.to_owned(), error };
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
    let key = SigningKey::from_key_file(&text);
    key.map(Some).map_err(|error| KeyFileError::Unreadable { path: path.to_owned(), error })
}

/// Reads the key in `path`, or makes one and writes it there before it is used.
pub fn load_or_create(path: &Path, entropy: &dyn Entropy) -> Result<SigningKey, KeyFileError> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    let key = SigningKey::generate(entropy);
    write(path, key.to_key_file().as_bytes())?;
    Ok(key)
}

/// Makes `path` hold `contents`, mode 0600, all of it or what was there before.
pub fn write(path: &Path, contents: &[u8]) -> Result<(), KeyFileError> {
    let written = || -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    written().map_err(|error| KeyFileError::File { path: path.to_owned(), error })
}

/// Makes the folder `path` with its parents, closed to others.
pub fn create_folder(path: &Path) -> Result<(), KeyFileError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| KeyFileError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sevens;

    impl Entropy for Sevens {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    #[test]
    fn a_key_is_made_once_and_read_back_from_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        create_folder(&folder).unwrap();
        let path = folder.join("x.key");
        assert!(load(&path).unwrap().is_none());
        let made = load_or_create(&path, &Sevens).unwrap();
        let read = load_or_create(&path, &Sevens).unwrap();
        assert_eq!(made.public(), read.public());
        for (path, expected) in [(&path, 0o600), (&folder, 0o700)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, expected);
        }
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_damaged_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        write(&path, b"nonsense").unwrap();
        assert!(matches!(load_or_create(&path, &Sevens), Err(KeyFileError::Unreadable { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"nonsense");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load(&path), Err(KeyFileError::Exposed { mode: 0o644, .. })));
    }
}
