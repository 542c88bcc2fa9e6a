//! The Hub's HTTP interface: which files a revision has, what a file's contents are called, and the contents.
//!
//! Files come from `{endpoint}/{repo}/resolve/{commit}/{file}`; its headers name size and checksum, also when it
//! redirects to a storage server (`X-Linked-*`). The token goes to the endpoint alone. Failures that may pass by
//! themselves are marked [`Transient`].

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use serde::Deserialize;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, RequestBuilder, typestate::WithoutBody};

use super::{Model, Settings, is_id, is_safe};

/// A server that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// Most bytes of an answer that is not a file.
const ANSWER_LIMIT: u64 = 32 << 20;

/// Reason to try again soon.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Transient(String);

impl Transient {
    pub(super) fn new(reason: String) -> Self {
        Self(reason)
    }
}

/// A connection to one server.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What a revision is.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

/// What a file's contents are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    /// Their name in the cache.
    pub(super) etag: String,
    pub(super) size: Option<u64>,
    /// SHA-256, of files in large-file storage.
    pub(super) sha256: Option<String>,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> anyhow::Result<Self> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .user_agent(concat!("bitnet-burn/", env!("CARGO_PKG_VERSION")));
        // A redirect from http to https fails for want of TLS, which is right: it is only used with servers at home.
        if settings.endpoint.starts_with("https:") {
            config = config.tls_config(tls()?);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
        })
    }

    /// The commit that `model`'s revision is, and its files.
    pub(super) fn list(&self, model: &Model) -> anyhow::Result<Listing> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!(
            "{}/api/models/{}/revision/{}",
            self.endpoint,
            model.repo,
            encode(model.revision(), false)
        );
        let mut response = self.send(self.agent.get(&url))?;
        if !response.status().is_success() {
            return Err(self.refusal(&response, model, &url));
        }
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_LIMIT)
            .read_to_vec()
            .map_err(|error| self.unreachable(&error))?;
        let answer: Answer = serde_json::from_slice(&body).with_context(|| {
            format!("{url}: no list of files in the answer. Is HF_ENDPOINT a Hub?")
        })?;
        ensure!(is_id(&answer.sha), "{url}: `{}` is no commit", answer.sha);
        let files: Vec<String> = answer
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            .collect();
        if let Some(file) = files.iter().find(|file| !is_safe(file)) {
            anyhow::bail!(
                "{url}: refused, for it names a file {file:?} that could lie outside of the model's folder"
            );
        }
        Ok(Listing {
            commit: answer.sha,
            files,
        })
    }

    /// Name, size and checksum of a file.
    pub(super) fn contents(
        &self,
        model: &Model,
        commit: &str,
        file: &str,
    ) -> anyhow::Result<Contents> {
        let url = self.url(model, commit, file);
        // The storage server knows nothing of the Hub's names: its headers are not asked for.
        let request = self
            .agent
            .head(&url)
            .config()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build();
        let response = self.send(request)?;
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refusal(&response, model, &url));
        }
        let headers = response.headers();
        let linked = header(headers, "x-linked-etag");
        let etag = linked
            .or_else(|| header(headers, "etag"))
            .map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        let etag =
            etag.with_context(|| format!("{url}: no ETag in the answer. Is HF_ENDPOINT a Hub?"))?;
        ensure!(is_id(&etag), "{url}: refused, for `{etag}` is no checksum");
        // The length of a redirection's own text says nothing.
        let length = header(headers, "content-length").filter(|_| status.is_success());
        let size = header(headers, "x-linked-size")
            .or(length)
            .and_then(|size| size.parse().ok());
        let is_sha256 = etag.len() == 64 && etag.chars().all(|c| c.is_ascii_hexdigit());
        Ok(Contents {
            sha256: is_sha256.then(|| etag.to_ascii_lowercase()),
            etag,
            size,
        })
    }

    /// The bytes of a file from `start` on, with the position at which the server really starts.
    pub(super) fn open(
        &self,
        model: &Model,
        commit: &str,
        file: &str,
        start: u64,
    ) -> anyhow::Result<(u64, Body)> {
        let url = self.url(model, commit, file);
        let mut request = self.agent.get(&url);
        if start > 0 {
            request = request.header("range", format!("bytes={start}-"));
        }
        let response = self.send(request)?;
        let start = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let range = header(response.headers(), "content-range").unwrap_or_default();
                let from = range
                    .trim_start_matches("bytes ")
                    .split('-')
                    .next()
                    .and_then(|from| from.parse().ok());
                ensure!(
                    from == Some(start),
                    "{url}: asked for bytes from {start} on, the server sends `{range}`"
                );
                start
            }
            _ => return Err(self.refusal(&response, model, &url)),
        };
        Ok((start, response.into_body()))
    }

    fn url(&self, model: &Model, commit: &str, file: &str) -> String {
        format!(
            "{}/{}/resolve/{commit}/{}",
            self.endpoint,
            model.repo,
            encode(file, true)
        )
    }

    fn send(&self, mut request: RequestBuilder<WithoutBody>) -> anyhow::Result<Response<Body>> {
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &ureq::Error) -> anyhow::Error {
        let text = format!("cannot reach {}: {error}", self.endpoint);
        match error {
            ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl | ureq::Error::Http(_) => {
                anyhow!("{text}. Check HF_ENDPOINT and HTTPS_PROXY")
            }
            ureq::Error::Io(error) if error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>()) => {
                anyhow!("{text}. SSL_CERT_FILE names further certificates to trust, a proxy's for one")
            }
            _ => anyhow::Error::new(Transient(text)).context(
                "no connection. Check the network; HTTPS_PROXY names a proxy, HF_ENDPOINT a mirror, and models that were \
                 downloaded before run without",
            ),
        }
    }

    /// What a status other than success means, and the way out.
    fn refusal(&self, response: &Response<Body>, model: &Model, url: &str) -> anyhow::Error {
        let Model { repo, .. } = model;
        let page = format!("{}/{repo}", self.endpoint);
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        let status = response.status();
        match (status.as_u16(), code) {
            (_, "RevisionNotFound") => {
                anyhow!(
                    "`{repo}` has no revision `{}`. {page}/tree/main lists branches and tags",
                    model.revision()
                )
            }
            (401 | 403, "GatedRepo") if self.token.is_none() => anyhow!(
                "`{repo}` is gated. Accept its terms at {page}, make a token at {}/settings/tokens and set HF_TOKEN to it",
                self.endpoint
            ),
            (401 | 403, "GatedRepo") | (403, _) => anyhow!(
                "`{repo}` is closed to the account of HF_TOKEN ({status}). Accept its terms at {page} with that account, and \
                 let the token read gated repositories"
            ),
            (401, _) if self.token.is_none() => anyhow!(
                "`{repo}` does not exist, or is private (401). Check the name at {page}; for a private one set HF_TOKEN to \
                 a token from {}/settings/tokens",
                self.endpoint
            ),
            (401, _) => anyhow!(
                "the server refuses the token (401), or `{repo}` does not exist. Check HF_TOKEN (or log in again with \
                 `hf auth login`) and the name at {page}"
            ),
            (404, "EntryNotFound") => anyhow!(
                "{url}: no such file. {page}/tree/{} lists them",
                model.revision()
            ),
            (404, _) => anyhow!("`{repo}` does not exist (404). Check the name at {page}"),
            (429, _) => anyhow::Error::new(Transient(format!(
                "{} asks to wait (429). Try again in some minutes; with HF_TOKEN the limits are wider",
                self.endpoint
            ))),
            (408 | 500..=599, _) => anyhow::Error::new(Transient(format!(
                "{url}: the server failed ({status}). Try again later"
            ))),
            _ => anyhow!("{url}: unexpected answer {status}. Is HF_ENDPOINT a Hub?"),
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Percent-encodes all but RFC 3986's unreserved characters, and `/` if it is one of the path.
fn encode(text: &str, keep_slash: bool) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'/' if keep_slash => "/".to_owned(),
            b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// TLS by rustls and Graviola, with the certificates that the system trusts.
fn tls() -> anyhow::Result<TlsConfig> {
    let provider = provider().context(
        "this processor lacks instructions that our TLS needs. Download with Python's `hf download OWNER/NAME`, which \
         shares the cache, or set HF_ENDPOINT to an http:// mirror",
    )?;
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(std::sync::Arc::new(provider))
        .build())
}

/// Graviola, where its instructions are; on other processors it would panic.
#[cfg(target_arch = "x86_64")]
fn provider() -> Option<rustls::crypto::CryptoProvider> {
    macro_rules! all {
        ($($name:tt)*) => { $(is_x86_feature_detected!($name))&&* };
    }
    all!("aes" "ssse3" "avx" "avx2" "adx" "bmi1" "bmi2" "pclmulqdq")
        .then(rustls_graviola::default_provider)
}

#[cfg(target_arch = "aarch64")]
fn provider() -> Option<rustls::crypto::CryptoProvider> {
    macro_rules! all {
        ($($name:tt)*) => { $(std::arch::is_aarch64_feature_detected!($name))&&* };
    }
    all!("neon" "aes" "pmull" "sha2").then(rustls_graviola::default_provider)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn provider() -> Option<rustls::crypto::CryptoProvider> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_for_a_url() {
        assert_eq!(
            encode("sub dir/ä#1.json", true),
            "sub%20dir/%C3%A4%231.json"
        );
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
    }

    #[test]
    fn tls_is_ready_wherever_the_fast_kernels_run() {
        if bitnet_burn::kernels::cpu::kernel()
            .name()
            .contains("avx512")
        {
            assert!(tls().is_ok());
        }
    }
}
