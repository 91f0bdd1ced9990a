//! The client of S3. It is a feature, because it brings TLS and HTTP: what only reads and writes stores of this
//! machine, such as fuzz targets and benchmarks, builds without it.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::{is_plain, meaning};

/// Timeout for establishing a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Timeout of a request, including the response's body.
const ANSWER: Duration = Duration::from_secs(60);
/// Maximum number of retries after a temporary failure, and the time limit for them.
const RETRIES: usize = 3;
const RETRY: Duration = Duration::from_secs(10);

/// Opens a bucket without sending requests.
pub(super) fn open(
    bucket: &str,
    region: Option<&str>,
    endpoint: Option<&str>,
) -> Result<Arc<dyn ObjectStore>, String> {
    // The TLS provider of all connections. This fails if one is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    // The URL takes precedence over the environment.
    if let Some(endpoint) = endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    let keys = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let endpoint = keys.iter().find_map(|key| builder.get_config_value(key));
    if let Some(endpoint) = endpoint.as_deref().filter(|endpoint| is_plain(endpoint)) {
        return Err(format!(
            "the endpoint {endpoint} of the environment is not encrypted, and requests have credentials; write \
             https://"
        ));
    }
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let client = ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(ANSWER);
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY, ..RetryConfig::default() };
    let builder = builder.with_client_options(client.with_allow_http(plain)).with_retry(retry);
    Ok(Arc::new(builder.build().map_err(|reason| meaning(&reason))?))
}
