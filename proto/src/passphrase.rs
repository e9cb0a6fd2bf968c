//! Private keys under a passphrase: PKCS #8, encrypted (PBES2: scrypt, AES-256-CBC), as OpenSSL reads and
//! writes them too.
//!
//! The passphrase is in a file that one variable of the environment names, so that a service can be given
//! it apart from the key, and no command line shows it.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use pkcs8::der::zeroize::Zeroizing;
use pkcs8::pkcs5::pbes2;
use pkcs8::pkcs5::scrypt::Params;
use pkcs8::{EncryptedPrivateKeyInfo, LineEnding, PrivateKeyInfo, SecretDocument};

/// The variable that names the file with the passphrase.
pub const VARIABLE: &str = "FEDPAINT_PASSPHRASE_FILE";

/// The longest passphrase.
pub const PASSPHRASE_BYTES_MAX: u64 = 1 << 10;

/// What an encrypted key is called in PEM.
const LOCKED: &str = "ENCRYPTED PRIVATE KEY";

/// What a key is called in PEM.
const OPEN: &str = "PRIVATE KEY";

/// What a key is encrypted with. Without `Debug`, so that no log shows it.
pub struct Passphrase(Zeroizing<Vec<u8>>);

/// Why a key is not encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file with the passphrase does not read.
    #[error("cannot read the passphrase from {}, which {VARIABLE} names: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is empty, or too long.
    #[error("{}, which {VARIABLE} names, must hold one line of 1 to {PASSPHRASE_BYTES_MAX} bytes", path.display())]
    Length {
        /// Which file.
        path: PathBuf,
    },
    /// The key is encrypted and nobody said with what.
    #[error("the key is encrypted: set {VARIABLE} to the file that holds its passphrase")]
    Locked,
    /// The passphrase is another's.
    #[error("the passphrase is not this key's")]
    Wrong,
    /// The key is none.
    #[error("it is not a private key, PKCS #8 in PEM")]
    Malformed,
    /// The system has no randomness to give, or the cipher fails.
    #[error("the key cannot be encrypted")]
    Cipher,
}

impl Passphrase {
    /// The passphrase in the file that [`VARIABLE`] names, if it names one.
    ///
    /// # Errors
    /// If the file does not read, or is empty or too long.
    pub fn of_environment() -> Result<Option<Passphrase>, Error> {
        Passphrase::of_file(std::env::var_os(VARIABLE))
    }

    fn of_file(named: Option<OsString>) -> Result<Option<Passphrase>, Error> {
        let named = named.filter(|path| !path.is_empty());
        named.map(|path| Passphrase::of_path(Path::new(&path))).transpose()
    }

    /// The passphrase in a file, its one line.
    ///
    /// # Errors
    /// If the file does not read, or is empty or too long.
    pub fn of_path(path: &Path) -> Result<Passphrase, Error> {
        let mut text = Zeroizing::new(Vec::new());
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(PASSPHRASE_BYTES_MAX + 2).read_to_end(&mut text));
        if let Err(source) = read {
            return Err(Error::Read { path: path.to_owned(), source });
        }
        while text.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            text.pop();
        }
        match text.len() as u64 {
            1..=PASSPHRASE_BYTES_MAX => Ok(Passphrase(text)),
            _ => Err(Error::Length { path: path.to_owned() }),
        }
    }

    /// A key, PEM, encrypted with a fresh salt.
    ///
    /// # Errors
    /// If it is no key, or the system has no randomness to give.
    pub fn lock(&self, pem: &str) -> Result<String, Error> {
        let (label, key) = SecretDocument::from_pem(pem).map_err(|_| Error::Malformed)?;
        let key = PrivateKeyInfo::try_from(key.as_bytes()).map_err(|_| Error::Malformed)?;
        if label != OPEN {
            return Err(Error::Malformed);
        }
        #[expect(clippy::disallowed_methods, reason = "no two keys may share a salt")]
        let random = SystemRandom::new();
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        random.fill(&mut salt).and_then(|()| random.fill(&mut iv)).map_err(|_| Error::Cipher)?;
        let parameters = pbes2::Parameters::scrypt_aes256cbc(Params::recommended(), &salt, &iv);
        let parameters = parameters.map_err(|_| Error::Cipher)?;
        let locked = key.encrypt_with_params(parameters, &*self.0).map_err(|_| Error::Cipher)?;
        let pem = locked.to_pem(LOCKED, LineEnding::LF).map_err(|_| Error::Cipher)?;
        Ok(pem.as_str().to_owned())
    }

    fn unlock(&self, pem: &str) -> Result<String, Error> {
        let (_, key) = SecretDocument::from_pem(pem).map_err(|_| Error::Malformed)?;
        let key =
            EncryptedPrivateKeyInfo::try_from(key.as_bytes()).map_err(|_| Error::Malformed)?;
        let open = key.decrypt(&*self.0).map_err(|_| Error::Wrong)?;
        let pem = open.to_pem(OPEN, LineEnding::LF).map_err(|_| Error::Malformed)?;
        Ok(pem.as_str().to_owned())
    }
}

/// A key, PEM, encrypted if the environment has a passphrase.
///
/// # Errors
/// If the passphrase does not read, or the key is none.
pub fn seal(pem: &str) -> Result<String, Error> {
    match Passphrase::of_environment()? {
        Some(passphrase) => passphrase.lock(pem),
        None => Ok(pem.to_owned()),
    }
}

/// A key, PEM, decrypted if it is encrypted.
///
/// # Errors
/// If the environment has no passphrase for it, or another one.
pub fn open(pem: String) -> Result<String, Error> {
    match pem.contains(LOCKED) {
        true => Passphrase::of_environment()?.ok_or(Error::Locked)?.unlock(&pem),
        false => Ok(pem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ed25519 key (RFC 8410, section 10.3).
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    fn passphrase(text: &str) -> Result<Option<Passphrase>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        std::fs::write(&path, text).unwrap();
        Passphrase::of_file(Some(path.into()))
    }

    #[test]
    fn a_key_is_read_again_with_its_passphrase_and_no_other() {
        let own = passphrase("correct horse\n").unwrap().unwrap();
        let locked = own.lock(KEY).unwrap();
        assert!(locked.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "{locked}");
        assert_eq!(own.unlock(&locked).unwrap(), KEY);
        assert_ne!(own.lock(KEY).unwrap(), locked, "the salt is fresh");
        let other = passphrase("battery staple").unwrap().unwrap();
        assert!(matches!(other.unlock(&locked), Err(Error::Wrong)));
        assert!(matches!(own.lock("hello"), Err(Error::Malformed)));
        assert!(matches!(own.lock(&locked), Err(Error::Malformed)));
        // Nobody has said with what.
        assert!(matches!(open(locked), Err(Error::Locked)));
        assert_eq!(open(KEY.to_owned()).unwrap(), KEY);
    }

    #[test]
    fn a_passphrase_is_one_line_of_a_file() {
        assert!(Passphrase::of_file(None).unwrap().is_none());
        for bad in ["", "\n", &"x".repeat(1_025)] {
            assert!(matches!(passphrase(bad), Err(Error::Length { .. })));
        }
        let absent = Passphrase::of_file(Some("/nonexistent/passphrase".into()));
        assert!(matches!(absent, Err(Error::Read { .. })));
    }
}
