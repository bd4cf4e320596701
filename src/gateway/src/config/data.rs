//! The data folder: what the gateway keeps on disk, readable by nobody else.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use secrecy::SecretString;

/// The default data folder, below the working folder.
pub(crate) const DEFAULT: &str = "tollway-data";
/// The file of the generated master key.
const MASTER_KEY: &str = "master_key";
/// What a master key file may hold at most; a key is far smaller.
const KEY_BYTES_MAX: u64 = 4096;

/// A folder that is there and belongs to this user alone.
#[derive(Clone, Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
}

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    /// It, or something in it, cannot be made, read or written.
    #[error("{}: cannot {doing}: {error}", .path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Others can read it, and it is not ours to change or cannot be changed.
    #[error(
        "{}: other users may enter it (mode {mode:03o}); run `chmod go-rwx` on it, or choose \
         another folder with --data",
        .path.display()
    )]
    Open {
        /// What.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The master key file is not one.
    #[error("{}: holds no master key; delete it to have a new one made", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
}

/// A master key from the data folder.
#[derive(Debug)]
pub(crate) struct StoredKey {
    /// The key.
    pub(crate) key: SecretString,
    /// Whether it was made just now, so that it should be shown, this once.
    pub(crate) is_new: bool,
}

impl DataFolder {
    /// Opens the folder, or makes it. One that others may enter is closed to them.
    ///
    /// # Errors
    /// When it cannot be made, or not closed to others.
    pub(crate) fn open(path: &Path) -> Result<DataFolder, DataError> {
        let io = |doing| move |error| DataError::Io { path: path.to_owned(), doing, error };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io("make the folder"))?;
        // Somebody else's folder, `/tmp` say, is not ours to close.
        let mut entries = fs::read_dir(path).map_err(io("read the folder"))?;
        let is_ours = path.join(MASTER_KEY).exists() || entries.next().is_none();
        close_to_others(path, if is_ours { 0o700 } else { 0o777 })?;
        Ok(DataFolder { path: path.to_owned() })
    }

    /// The master key kept here. The first time, one is made.
    ///
    /// # Errors
    /// When it cannot be read or written, or is none.
    pub(crate) fn master_key(&self) -> Result<StoredKey, DataError> {
        let path = self.path.join(MASTER_KEY);
        let io = |doing| {
            let path = path.clone();
            move |error| DataError::Io { path, doing, error }
        };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match file {
            Ok(mut file) => {
                let key = generate().map_err(io("make a random key"))?;
                file.write_all(format!("{key}\n").as_bytes())
                    .and_then(|()| file.sync_all())
                    .map_err(io("write"))?;
                Ok(StoredKey { key: key.into(), is_new: true })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                close_to_others(&path, 0o600)?;
                let mut text = String::new();
                fs::File::open(&path)
                    .and_then(|file| file.take(KEY_BYTES_MAX).read_to_string(&mut text))
                    .map_err(io("read"))?;
                let key = text.trim();
                if key.is_empty() || key.contains(char::is_whitespace) {
                    return Err(DataError::Key { path });
                }
                Ok(StoredKey { key: key.into(), is_new: false })
            }
            Err(error) => Err(io("write")(error)),
        }
    }
}

fn close_to_others(path: &Path, mode: u32) -> Result<(), DataError> {
    let io = |doing| move |error| DataError::Io { path: path.to_owned(), doing, error };
    let found = fs::metadata(path).map_err(io("look at"))?.permissions().mode() & 0o777;
    if found & 0o077 == 0 {
        return Ok(());
    }
    // On a file system without modes this succeeds and changes nothing.
    let _ = fs::set_permissions(path, Permissions::from_mode(found & mode));
    let now = fs::metadata(path).map_err(io("look at"))?.permissions().mode() & 0o777;
    if now & 0o077 != 0 {
        return Err(DataError::Open { path: path.to_owned(), mode: now });
    }
    Ok(())
}

/// `sk-` and 32 random bytes in the URL-safe base64 alphabet.
fn generate() -> io::Result<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let mut key = "sk-".to_owned();
    for three in random.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        // Three bytes are four digits, two are three: no padding.
        for digit in 0..=three.len() {
            key.push(char::from(ALPHABET[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    /// A path that is not there, and goes away again.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            Scratch(
                std::env::temp_dir().join(format!("tollway-data-{name}-{}", std::process::id())),
            )
        }

        fn mode(&self, file: &str) -> u32 {
            fs::metadata(self.0.join(file)).unwrap().permissions().mode() & 0o777
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_master_key_is_made_once_and_kept() {
        let scratch = Scratch::new("once");
        let first = DataFolder::open(&scratch.0).unwrap().master_key().unwrap();
        let second = DataFolder::open(&scratch.0).unwrap().master_key().unwrap();
        assert!(first.is_new && !second.is_new);
        assert_eq!(first.key.expose_secret(), second.key.expose_secret());
        assert_eq!((scratch.mode(""), scratch.mode("master_key")), (0o700, 0o600));
    }

    #[test]
    fn a_folder_that_is_open_to_others_is_closed() {
        let scratch = Scratch::new("open");
        fs::create_dir(&scratch.0).unwrap();
        fs::set_permissions(&scratch.0, Permissions::from_mode(0o755)).unwrap();
        DataFolder::open(&scratch.0).unwrap();
        assert_eq!(scratch.mode(""), 0o700);
    }

    #[test]
    fn a_folder_of_somebody_else_is_left_as_it_is() {
        let scratch = Scratch::new("else");
        fs::create_dir(&scratch.0).unwrap();
        fs::write(scratch.0.join("letter"), "").unwrap();
        fs::set_permissions(&scratch.0, Permissions::from_mode(0o755)).unwrap();
        let error = DataFolder::open(&scratch.0).unwrap_err();
        assert!(error.to_string().contains("other users may enter it (mode 755)"), "{error}");
        assert_eq!(scratch.mode(""), 0o755);
    }

    #[test]
    fn a_master_key_open_to_others_is_closed() {
        let scratch = Scratch::new("file");
        let folder = DataFolder::open(&scratch.0).unwrap();
        fs::write(scratch.0.join("master_key"), "sk-mine\n").unwrap();
        fs::set_permissions(scratch.0.join("master_key"), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(folder.master_key().unwrap().key.expose_secret(), "sk-mine");
        assert_eq!(scratch.mode("master_key"), 0o600);
    }

    #[test]
    fn an_empty_master_key_is_refused() {
        let scratch = Scratch::new("empty");
        let folder = DataFolder::open(&scratch.0).unwrap();
        fs::write(scratch.0.join("master_key"), "\n").unwrap();
        let error = folder.master_key().unwrap_err();
        assert!(error.to_string().contains("holds no master key"), "{error}");
    }

    #[test]
    fn a_file_in_the_folders_place_is_refused() {
        let scratch = Scratch::new("place");
        fs::write(&scratch.0, "").unwrap();
        let error = DataFolder::open(&scratch.0).unwrap_err();
        fs::remove_file(&scratch.0).unwrap();
        assert!(error.to_string().contains("cannot make the folder"), "{error}");
    }

    #[test]
    fn keys_are_long_url_safe_and_never_the_same() {
        let (first, second) = (generate().unwrap(), generate().unwrap());
        assert_ne!(first, second);
        assert_eq!(first.len(), 3 + 43);
        assert!(first.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    }
}
