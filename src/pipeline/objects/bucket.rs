//! Objects in an S3 bucket. Its requests run on a small runtime of its own, so that any thread may wait for them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig,
};
use tokio::runtime::Runtime;
use url::Url;

use super::{Kept, Listed};
use crate::pipeline::tls;

/// For a connection, for the answer to one request, and for all attempts at one together.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(60);
const IN_ALL: Duration = Duration::from_secs(60);

/// How a bucket is reached, secrets included; its `Debug` shows none.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketAccess {
    /// Address of the server.
    pub endpoint: Url,
    /// Its region; what most servers other than Amazon's call it does not matter.
    pub region: String,
    /// Name of the bucket.
    pub bucket: String,
    /// Before every name, without `/` at its end; may be empty.
    pub prefix: String,
    /// Who we are.
    pub access_key: String,
    /// That it is us.
    pub secret_key: String,
    /// Authorities of its certificate besides those of the system, PEM.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for BucketAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketAccess").field("place", &self.to_string()).finish_non_exhaustive()
    }
}

impl fmt::Display for BucketAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.endpoint.as_str().trim_end_matches('/'), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// Why a bucket does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The file of authorities.
    #[error("{path} holds no certificate authorities in PEM form")]
    Authorities {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system gives no threads.
    #[error("the system gives no threads")]
    Threads(#[source] std::io::Error),
    /// Somebody else answers, or one whose certificate we cannot check.
    #[error(
        "the certificate of the object store is not believed: name the authority that signed it as ca_file, and the host \
         as the certificate does"
    )]
    Certificate(#[source] Box<object_store::Error>),
    /// The server, or the way to it.
    #[error("the object store does not do it")]
    Server(#[source] Box<object_store::Error>),
    /// Our own runtime ended, as when the process stops.
    #[error("the requests to the object store have ended")]
    Ended,
}

/// A bucket.
pub(super) struct Bucket {
    store: AmazonS3,
    prefix: Path,
    /// `Some` until it is dropped.
    runtime: Mutex<Option<Runtime>>,
    place: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.place)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // Whoever drops it may be a task, which must not wait.
        if let Ok(mut runtime) = self.runtime.lock()
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
    }
}

impl Bucket {
    pub(super) fn open(access: &BucketAccess) -> Result<Self, BucketError> {
        tls::use_for_all();
        let mut options = ClientOptions::new()
            .with_allow_http(access.endpoint.scheme() == "http")
            .with_connect_timeout(CONNECT)
            .with_timeout(ANSWER);
        if let Some(path) = &access.ca_file {
            let unusable = |source: Box<dyn std::error::Error + Send + Sync>| BucketError::Authorities {
                path: path.clone(),
                source,
            };
            let pem = std::fs::read(path).map_err(|error| unusable(error.into()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.into()))?;
            for certificate in certificates {
                options = options.with_root_certificate(certificate);
            }
        }
        let backoff = BackoffConfig { max_backoff: Duration::from_secs(1), ..BackoffConfig::default() };
        let store = AmazonS3Builder::new()
            .with_endpoint(access.endpoint.as_str().trim_end_matches('/'))
            .with_region(&access.region)
            .with_bucket_name(&access.bucket)
            .with_access_key_id(&access.access_key)
            .with_secret_access_key(&access.secret_key)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(options)
            .with_retry(RetryConfig { backoff, max_retries: 3, retry_timeout: IN_ALL })
            .build()
            .map_err(of_server)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("bucket")
            .enable_all()
            .build()
            .map_err(BucketError::Threads)?;
        let (prefix, place) = (Path::from(access.prefix.as_str()), access.to_string());
        Ok(Self { store, prefix, runtime: Mutex::new(Some(runtime)), place })
    }

    pub(super) fn put_new(&self, name: &str, parts: &[&[u8]]) -> Result<Kept, BucketError> {
        let (store, path, payload) = (self.store.clone(), self.path(name), payload(parts));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.run(async move { store.put_opts(&path, payload, options).await })?;
        match put {
            Ok(_) => Ok(Kept::New),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(Kept::Before)
            }
            Err(error) => Err(of_server(error)),
        }
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), BucketError> {
        let (store, path, payload) = (self.store.clone(), self.path(name), payload(&[bytes]));
        let put = self.run(async move { store.put(&path, payload).await })?;
        put.map(drop).map_err(of_server)
    }

    pub(super) fn get(&self, name: &str) -> Result<Option<Vec<u8>>, BucketError> {
        let (store, path) = (self.store.clone(), self.path(name));
        let got = self.run(async move { store.get(&path).await?.bytes().await })?;
        match got {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(of_server(error)),
        }
    }

    pub(super) fn get_first(&self, name: &str, n_bytes: u64) -> Result<Option<Vec<u8>>, BucketError> {
        let (store, path) = (self.store.clone(), self.path(name));
        match self.run(async move { store.get_range(&path, 0..n_bytes).await })? {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(of_server(error)),
        }
    }

    pub(super) fn exists(&self, name: &str) -> Result<bool, BucketError> {
        let (store, path) = (self.store.clone(), self.path(name));
        match self.run(async move { store.head(&path).await })? {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(of_server(error)),
        }
    }

    pub(super) fn list(&self, folder: &str) -> Result<Listed, BucketError> {
        let (store, path) = (self.store.clone(), self.path(folder));
        let listed = self.run(async move { store.list_with_delimiter(Some(&path)).await })?;
        let listed = listed.map_err(of_server)?;
        let last = |path: &Path| path.filename().map(str::to_owned);
        let mut listed = Listed {
            objects: listed.objects.iter().filter_map(|object| last(&object.location)).collect(),
            folders: listed.common_prefixes.iter().filter_map(last).collect(),
        };
        listed.objects.sort();
        listed.folders.sort();
        Ok(listed)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), BucketError> {
        let (store, path) = (self.store.clone(), self.path(name));
        match self.run(async move { store.delete(&path).await })? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(of_server(error)),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), BucketError> {
        let (store, from, to) = (self.store.clone(), self.path(from), self.path(to));
        let moved = self.run(async move {
            store.copy(&from, &to).await?;
            store.delete(&from).await
        })?;
        moved.map_err(of_server)
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.parts().chain(Path::from(name).parts()).collect()
    }

    /// Runs a request there and waits for it here.
    fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, BucketError> {
        let (done, answer) = mpsc::sync_channel(1);
        {
            let runtime = self.runtime.lock().map_err(|_poisoned| BucketError::Ended)?;
            runtime.as_ref().ok_or(BucketError::Ended)?.spawn(async move {
                // Whoever asked waits, unless its thread has ended.
                drop(done.send(request.await));
            });
        }
        answer.recv().map_err(|_ended| BucketError::Ended)
    }
}

fn of_server(error: object_store::Error) -> BucketError {
    match tls::is_refusal(&error) {
        true => BucketError::Certificate(Box::new(error)),
        false => BucketError::Server(Box::new(error)),
    }
}

fn payload(parts: &[&[u8]]) -> PutPayload {
    parts.concat().into()
}
