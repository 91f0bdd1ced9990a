//! A client of AWS' Query API: a signed form is posted, and XML comes back.
//!
//! Credentials come from the environment, the instance (`IMDSv2`), the container (ECS, EKS) or a web identity, in the order of
//! `object_store`, or from a role that those may assume. Requests are limited to a rate below that of EC2, and are repeated
//! after temporary failures ("Request throttling for the Amazon EC2 API", "Exponential backoff and jitter").

use std::env;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector as _, HttpResponseBody, ReqwestConnector};
use object_store::{ClientOptions, RetryConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use url::{Host, Url, form_urlencoded};

/// Timeout for establishing a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Timeout of a request, including the response's body.
const ANSWER: Duration = Duration::from_secs(60);
/// Maximum length of a response in bytes: a page of 1,000 interfaces has about 2 MB.
const MAX_LEN: usize = 32 << 20;
/// Number of attempts of a request.
const ATTEMPTS: u32 = 8;
/// The longest wait before the second attempt; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Number of requests at once, and their rate, for calls with pages: half of what EC2 allows an account in a region.
const BURST: u32 = 50;
const INTERVAL: Duration = Duration::from_millis(100);
/// The time of the credentials of an assumed role that is left when they are renewed.
const RENEWAL: Duration = Duration::from_secs(5 * 60);
/// The lifetime of the credentials of an assumed role: what a role permits at least.
const ROLE_TIME: Duration = Duration::from_secs(3600);
/// Where an instance finds out about itself.
const METADATA: &str = "http://169.254.169.254";

/// A service with a Query API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Elastic Compute Cloud.
    Ec2,
    /// Security Token Service.
    Sts,
}

impl Service {
    /// Returns the name in host names, signatures and policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Sts => "sts",
        }
    }

    /// Returns the version of the API.
    const fn version(self) -> &'static str {
        match self {
            Self::Ec2 => "2016-11-15",
            Self::Sts => "2011-06-15",
        }
    }
}

/// A role in an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its Amazon Resource Name, `arn:aws:iam::111122223333:role/NAME`.
    pub arn: String,
    /// The secret that the account's owner requires of whoever assumes the role.
    pub external_id: Option<String>,
}

/// The place and the identity of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The region.
    pub region: String,
    /// The role to assume; without it, the credentials are those of the environment or the instance.
    pub role: Option<Role>,
    /// The URL of the endpoint of all services, in place of AWS' own for the region.
    pub endpoint: Option<String>,
    /// Uses the endpoints that are validated by FIPS 140.
    pub fips: bool,
}

impl ClientSettings {
    /// Returns the settings for a region, with the endpoints that the environment asks for: `AWS_ENDPOINT_URL`,
    /// `AWS_USE_FIPS_ENDPOINT`.
    #[must_use]
    pub fn of_region(region: &str) -> Self {
        let is_set = |name| env::var(name).is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        Self {
            region: region.to_owned(),
            role: None,
            endpoint: env::var("AWS_ENDPOINT_URL").ok().filter(|url| !url.is_empty()),
            fips: is_set("AWS_USE_FIPS_ENDPOINT"),
        }
    }

    /// Returns the URL of a service.
    fn url(&self, service: Service) -> String {
        if let Some(endpoint) = &self.endpoint {
            return endpoint.clone();
        }
        let fips = if self.fips { "-fips" } else { "" };
        format!("https://{}{fips}.{}.{}/", service.name(), self.region, domain(&self.region))
    }
}

/// Returns the domain of the partition that a region belongs to.
fn domain(region: &str) -> &'static str {
    match region.split('-').next() {
        Some("cn") => "amazonaws.com.cn",
        Some("eusc") => "amazonaws.eu",
        Some("us") if region.starts_with("us-iso-") => "c2s.ic.gov",
        Some("us") if region.starts_with("us-isob-") => "sc2s.sgov.gov",
        _ => "amazonaws.com",
    }
}

/// Returns whether a text has the form of a region: it becomes a part of a host's name.
#[must_use]
pub fn is_region(text: &str) -> bool {
    let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (4..=32).contains(&text.len()) && text.bytes().all(is_label) && !text.starts_with('-')
}

/// An error of a call, in one line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The client cannot be made as asked.
    #[error("{0}")]
    Settings(String),
    /// There are no credentials.
    #[error(
        "no credentials for AWS: {0}; give the instance a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Credentials(String),
    /// The service answered with an error.
    #[error("{}", refused(*service, action, code, message))]
    Refused {
        /// The service.
        service: Service,
        /// The action.
        action: &'static str,
        /// The service's code, such as `UnauthorizedOperation`.
        code: String,
        /// The service's text.
        message: String,
    },
    /// There is no usable answer.
    #[error("{action} of {url}: {what}")]
    Unanswered {
        /// The action.
        action: &'static str,
        /// The endpoint.
        url: String,
        /// The reason.
        what: String,
    },
}

/// Describes a refusal, and its remedy where there is one.
fn refused(service: Service, action: &str, code: &str, message: &str) -> String {
    // A denial that an administrator can decode has an encrypted text of a kilobyte behind this.
    let message = message.split("Encoded authorization failure message").next().unwrap_or(message).trim_end();
    let remedy = match code {
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => format!(
            "; a policy with {{\"Effect\":\"Allow\",\"Action\":\"{}:{action}\",\"Resource\":\"*\"}} allows it",
            service.name()
        ),
        "RequestExpired" | "ExpiredToken" | "ExpiredTokenException" => {
            "; the credentials have expired: get new ones, or set this machine's clock".to_owned()
        }
        "AuthFailure" | "InvalidClientTokenId" | "UnrecognizedClientException" => {
            "; the credentials are not valid in this region or partition".to_owned()
        }
        "OptInRequired" => "; enable the region for the account".to_owned(),
        _ => String::new(),
    };
    format!("{action}: {code}: {message}{remedy}")
}

impl CallError {
    /// Returns whether the same call may succeed a moment later.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Refused { code, .. } => matches!(
                code.as_str(),
                "RequestLimitExceeded"
                    | "Throttling"
                    | "ThrottlingException"
                    | "InternalError"
                    | "InternalFailure"
                    | "ServiceUnavailable"
                    | "Unavailable"
            ),
            Self::Unanswered { .. } => true,
            Self::Settings(_) | Self::Credentials(_) => false,
        }
    }

    /// Returns the service's code, if it answered.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// The parameters of a call, in order.
pub type Parameters = Vec<(String, String)>;

/// A client for one region and one identity.
#[derive(Debug)]
pub struct Client {
    settings: ClientSettings,
    http: HttpClient,
    credentials: AwsCredentialProvider,
    /// The credentials of the assumed role, and the time at which they are renewed.
    assumed: Mutex<Option<(Arc<AwsCredential>, Instant)>>,
    bucket: Mutex<Bucket>,
}

impl Client {
    /// Makes a client without sending requests.
    ///
    /// # Errors
    ///
    /// Fails if the region has no form of a region, the endpoint is not encrypted though on another host, or the
    /// environment's credentials are not whole.
    pub fn new(settings: &ClientSettings) -> Result<Self, CallError> {
        let wrong = |what: String| CallError::Settings(what);
        if !is_region(&settings.region) {
            return Err(wrong(format!("`{}` is not a region such as eu-central-1", settings.region)));
        }
        if let Some(endpoint) = &settings.endpoint {
            let url = Url::parse(endpoint).map_err(|_| wrong(format!("`{endpoint}` is not a URL")))?;
            if url.scheme() != "https" && !(url.scheme() == "http" && is_here(&url)) {
                return Err(wrong(format!(
                    "the endpoint {endpoint} is not encrypted, and requests have credentials; write https://"
                )));
            }
        }
        // The TLS provider of all connections. This fails if one is already installed, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options =
            ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(ANSWER).with_allow_http(true);
        let http = ReqwestConnector::default().connect(&options);
        let http = http.map_err(|error| wrong(format!("cannot use HTTP: {error}")))?;
        let retry = RetryConfig { max_retries: 2, retry_timeout: CONNECT, ..RetryConfig::default() };
        // Only the search for credentials is used of the client of S3.
        let finder = AmazonS3Builder::from_env()
            .with_bucket_name("none")
            .with_region(&settings.region)
            .with_client_options(ClientOptions::new().with_connect_timeout(CONNECT).with_allow_http(true))
            .with_retry(retry)
            .build()
            .map_err(|error| CallError::Credentials(error.to_string()))?;
        Ok(Self {
            settings: settings.clone(),
            http,
            credentials: Arc::clone(finder.credentials()),
            assumed: Mutex::default(),
            bucket: Mutex::new(Bucket::full(Instant::now())),
        })
    }

    /// Returns the settings that the client was made with.
    #[must_use]
    pub const fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// Calls an action of EC2 and reads its answer. Repeats it after temporary failures.
    ///
    /// # Errors
    ///
    /// Fails if the service refuses the call, or gives no usable answer several times in a row.
    pub async fn ec2<T: DeserializeOwned>(
        &self,
        action: &'static str,
        parameters: &[(String, String)],
    ) -> Result<T, CallError> {
        let mut longest = FIRST_WAIT;
        for attempt in 1.. {
            self.wait_for_turn().await;
            let credential = self.credential().await?;
            match self.try_call(Service::Ec2, action, parameters, &credential).await {
                Err(error) if attempt < ATTEMPTS && error.is_temporary() => {
                    tracing::debug!("{error}; repeated");
                    sleep(longest.mul_f64(fastrand::f64())).await;
                    longest = (longest * 2).min(LONGEST_WAIT);
                }
                other => return other,
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Waits until a request is within the rate.
    async fn wait_for_turn(&self) {
        let time = self.bucket.lock().await.take(Instant::now());
        sleep_until(time).await;
    }

    /// Returns the credentials of this client, those of its role if it has one.
    async fn credential(&self) -> Result<Arc<AwsCredential>, CallError> {
        let own = async || {
            let found = self.credentials.get_credential().await;
            found.map_err(|error| CallError::Credentials(in_one_line(&error)))
        };
        let Some(role) = &self.settings.role else { return own().await };
        let mut assumed = self.assumed.lock().await;
        if let Some((credential, renewal)) = &*assumed
            && Instant::now() < *renewal
        {
            return Ok(Arc::clone(credential));
        }
        let own = own().await?;
        let mut parameters = vec![
            ("RoleArn".to_owned(), role.arn.clone()),
            ("RoleSessionName".to_owned(), "mirror-xdp".to_owned()),
            ("DurationSeconds".to_owned(), ROLE_TIME.as_secs().to_string()),
        ];
        parameters.extend(role.external_id.iter().map(|id| ("ExternalId".to_owned(), id.clone())));
        let answer: AssumeRole = self.try_call(Service::Sts, "AssumeRole", &parameters, &own).await?;
        let Credentials { access_key_id, secret_access_key, session_token } = answer.result.credentials;
        let credential = Arc::new(AwsCredential {
            key_id: access_key_id,
            secret_key: secret_access_key,
            token: Some(session_token),
        });
        *assumed = Some((Arc::clone(&credential), Instant::now() + ROLE_TIME - RENEWAL));
        Ok(credential)
    }

    /// Sends a request once.
    async fn try_call<T: DeserializeOwned>(
        &self,
        service: Service,
        action: &'static str,
        parameters: &[(String, String)],
        credential: &AwsCredential,
    ) -> Result<T, CallError> {
        let url = self.settings.url(service);
        let unanswered = |what: String| CallError::Unanswered { action, url: url.clone(), what };
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", service.version()).extend_pairs(parameters);
        let request = Request::builder()
            .method(Method::POST)
            .uri(&url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8");
        let mut request =
            request.body(form.finish().into()).map_err(|error| unanswered(error.to_string()))?;
        AwsAuthorizer::new(credential, service.name(), &self.settings.region)
            .try_authorize(&mut request, None)
            .map_err(|error| unanswered(error.to_string()))?;
        let (status, body) = self.send(request).await.map_err(unanswered)?;
        if !status.is_success() {
            return Err(match read_error(&body) {
                Some((code, message)) => CallError::Refused { service, action, code, message },
                None => unanswered(format!("status {status}")),
            });
        }
        quick_xml::de::from_str(&body)
            .map_err(|error| unanswered(format!("its answer is not understood: {error}")))
    }

    /// Sends a request, and returns status and body of the response.
    async fn send(&self, request: object_store::client::HttpRequest) -> Result<(StatusCode, String), String> {
        let answer = async {
            let response = self.http.execute(request).await.map_err(|error| in_one_line(&error))?;
            let (parts, body) = response.into_parts();
            Ok((parts.status, read(body).await?))
        };
        timeout(ANSWER, answer)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER.as_secs())))
    }

    /// Returns the region of this instance, from its metadata (`IMDSv2`).
    ///
    /// # Errors
    ///
    /// Fails if this is no instance, or it may not read its metadata.
    pub async fn region_of_instance() -> Result<String, CallError> {
        let client = Self::new(&ClientSettings::of_region("none"))?;
        let base = env::var("AWS_METADATA_ENDPOINT").unwrap_or_else(|_| METADATA.to_owned());
        let base = base.trim_end_matches('/');
        let missing = |what: String| {
            CallError::Settings(format!(
                "cannot find out the region from {base}: {what}; name it with --region"
            ))
        };
        let request = |method, path: &str, header: (&str, &str)| {
            let request = Request::builder()
                .method(method)
                .uri(format!("{base}/latest/{path}"))
                .header(header.0, header.1);
            request.body(String::new().into()).map_err(|error| missing(error.to_string()))
        };
        let ask = async |request| match timeout(CONNECT, client.send(request)).await {
            Ok(Ok((StatusCode::OK, body))) => Ok(body),
            Ok(Ok((status, _))) => Err(missing(format!("status {status}"))),
            Ok(Err(what)) => Err(missing(what)),
            Err(_) => Err(missing("no answer".to_owned())),
        };
        let seconds = ("x-aws-ec2-metadata-token-ttl-seconds", "60");
        let token = ask(request(Method::PUT, "api/token", seconds)?).await?;
        let region =
            ask(request(Method::GET, "meta-data/placement/region", ("x-aws-ec2-metadata-token", &token))?)
                .await?;
        if is_region(&region) { Ok(region) } else { Err(missing("the answer is no region".to_owned())) }
    }
}

/// Returns whether a URL is of this host.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Reads a body of at most [`MAX_LEN`] bytes.
async fn read(body: HttpResponseBody) -> Result<String, String> {
    let mut stream = body.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.map_err(|error| in_one_line(&error))?);
        if bytes.len() > MAX_LEN {
            return Err(format!("its answer is longer than {} MiB", MAX_LEN >> 20));
        }
    }
    String::from_utf8(bytes).map_err(|_| "its answer is not UTF-8".to_owned())
}

/// Returns code and message of an error's document: EC2's has a list of them, that of others has one.
fn read_error(body: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Document {
        errors: Option<Errors>,
        error: Option<Refusal>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Errors {
        error: Vec<Refusal>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Refusal {
        code: String,
        #[serde(default)]
        message: String,
    }
    let document: Document = quick_xml::de::from_str(body).ok()?;
    let first = document.errors.and_then(|errors| errors.error.into_iter().next());
    first.or(document.error).map(|refusal| (refusal.code, refusal.message))
}

#[derive(Deserialize)]
struct AssumeRole {
    #[serde(rename = "AssumeRoleResult")]
    result: AssumeRoleResult,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumeRoleResult {
    credentials: Credentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
}

/// Returns an error with its causes in one line.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            // Writing into a string does not fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A token bucket: [`BURST`] requests at once, then one in each [`INTERVAL`].
#[derive(Debug)]
struct Bucket {
    /// The time at which the bucket is full.
    full_at: Instant,
}

impl Bucket {
    const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token, and returns the time from which on it may be used.
    fn take(&mut self, now: Instant) -> Instant {
        self.full_at = self.full_at.max(now) + INTERVAL;
        // The tokens taken in advance have to come in first.
        self.full_at.checked_sub(INTERVAL * BURST).map_or(now, |ready| ready.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_code_and_the_remedy() {
        let ec2 = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized to \
                   perform this operation. Encoded authorization failure message: abc</Message></Error></Errors>\
                   <RequestID>1</RequestID></Response>";
        let (code, message) = read_error(ec2).unwrap();
        let text = CallError::Refused { service: Service::Ec2, action: "DescribeInstances", code, message };
        assert_eq!(
            text.to_string(),
            "DescribeInstances: UnauthorizedOperation: You are not authorized to perform this operation.; a policy \
             with {\"Effect\":\"Allow\",\"Action\":\"ec2:DescribeInstances\",\"Resource\":\"*\"} allows it"
        );
        let sts = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                   <Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
        assert_eq!(read_error(sts), Some(("AccessDenied".to_owned(), "no".to_owned())));
        for other in ["", "<html>", "<Response/>", "<Response><Errors/></Response>", "{}"] {
            assert_eq!(read_error(other), None, "{other}");
        }
    }

    #[test]
    fn endpoints_are_those_of_the_partition() {
        let url = |region: &str, fips| {
            let settings = ClientSettings { region: region.to_owned(), role: None, endpoint: None, fips };
            settings.url(Service::Ec2)
        };
        assert_eq!(url("eu-central-1", false), "https://ec2.eu-central-1.amazonaws.com/");
        assert_eq!(url("cn-north-1", false), "https://ec2.cn-north-1.amazonaws.com.cn/");
        assert_eq!(url("us-gov-west-1", true), "https://ec2-fips.us-gov-west-1.amazonaws.com/");
    }

    #[test]
    fn settings_that_would_show_credentials_are_refused() {
        let settings = |region: &str, endpoint: &str| ClientSettings {
            region: region.to_owned(),
            role: None,
            endpoint: Some(endpoint.to_owned()),
            fips: false,
        };
        for (region, endpoint) in [
            ("eu-central-1", "http://10.0.0.1/"),
            ("eu.evil.example/", "https://a"),
            ("eu-west-1", "ftp://localhost"),
        ] {
            assert!(Client::new(&settings(region, endpoint)).is_err(), "{region} {endpoint}");
        }
        assert!(Client::new(&settings("eu-central-1", "http://127.0.0.1:1/")).is_ok());
    }

    #[test]
    fn the_rate_is_never_exceeded() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        let times: Vec<_> = (0..BURST + 20).map(|_| bucket.take(start)).collect();
        assert!(times.iter().take(BURST as usize).all(|time| *time == start));
        assert_eq!(times.last().copied(), Some(start + INTERVAL * 20));
        // After a rest, the burst is back.
        let later = start + INTERVAL * (BURST + 20);
        assert_eq!(bucket.take(later), later);
    }
}
