//! Certificates and keys from files.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// What others than the owner must not have on a private key; the group may read it, as Debian's `ssl-cert` does.
const FORBIDDEN_ON_KEYS: u32 = 0o037;

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| pem_error(path, "certificate", source);
    let found: Vec<_> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(failed)?;
    if found.is_empty() {
        return Err(failed(PemError::NoItemsFound));
    }
    Ok(found)
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let read = |source| TlsError::Read { path: path.to_owned(), source };
    let mode = crate::platform::mode_of(&std::fs::metadata(path).map_err(read)?);
    if mode & FORBIDDEN_ON_KEYS != 0 {
        return Err(TlsError::KeyOpen { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_file(path)
        .map_err(|source| pem_error(path, "private key without a password", source))
}

pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        let failed =
            |source: rustls::Error| TlsError::Authorities { path: path.to_owned(), source: source.into() };
        store.add(certificate).map_err(failed)?;
    }
    Ok(store)
}

fn pem_error(path: &Path, wanted: &'static str, source: PemError) -> TlsError {
    let path = path.to_owned();
    match source {
        PemError::Io(source) => TlsError::Read { path, source },
        source => TlsError::Pem { path, wanted, source },
    }
}
