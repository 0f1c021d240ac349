//! The sources of federated tokens: how each is asked, what its answers mean, and how long they are used.

use std::sync::Arc;
use std::time::Duration;

use super::{Assertion, HttpSource};
use crate::http::{CallResult, HttpCall};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// What to do if the cluster does not serve the file.
pub(super) const MOUNT_THE_FILE: &str = "Mount the volume with the projected token into the container that runs Envoy (in an Istio \
    sidecar with the pod annotations sidecar.istio.io/userVolume and userVolumeMount), and check that Envoy accepted the listener that \
    serves the file: Envoy rejects it if the file is missing when the configuration loads.";

/// A source of federated tokens. Each kind of source is a variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, such as a projected service-account token. Envoy serves it: `GET /` on the cluster returns its content (see
    /// `envoy/sidecar/envoy.yaml`).
    File {
        /// The cluster that leads to the internal listener.
        cluster: String,
    },
    /// A service that is asked by one HTTP call and makes a token for it.
    Http {
        /// How it is asked, and what its answers mean.
        http: Arc<HttpSource>,
        /// The source whose assertion the call contains.
        input: Option<Arc<Self>>,
    },
}

impl Source {
    /// The kind of the source, as in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Http { http, .. } => http.kind,
        }
    }

    /// The Envoy cluster that the token is read from.
    pub fn cluster(&self) -> &str {
        match self {
            Self::File { cluster } => cluster,
            Self::Http { http, .. } => &http.request.cluster,
        }
    }

    /// The method, the authority and the path with query of the call that asks the source.
    pub fn target(&self) -> (&'static str, &str, &str) {
        match self {
            Self::File { cluster } => ("GET", cluster, "/"),
            Self::Http { http, .. } => (http.request.method, &http.request.target.authority, &http.request.target.path),
        }
    }

    /// The text that distinguishes two sources of one kind, in token keys and in shared data.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::File { cluster } => cluster,
            Self::Http { http, .. } => &http.id,
        }
    }

    /// The source whose assertion is needed to ask this one.
    pub fn input(&self) -> Option<&Self> {
        match self {
            Self::File { .. } => None,
            Self::Http { input, .. } => input.as_deref(),
        }
    }

    /// Whether an assertion of this source depends on a call to `other`: it is the same source, or an input of it.
    pub(crate) fn depends_on(&self, other: &Self) -> bool {
        self == other || self.input().is_some_and(|input| input.depends_on(other))
    }

    /// Whether the source holds a token that is renewed whether it is read or not. Otherwise it makes a token for each call, and is asked
    /// only when one is needed.
    pub(crate) fn holds_token(&self) -> bool {
        match self {
            Self::File { .. } => true,
            Self::Http { http, .. } => !http.expected.made_on_demand,
        }
    }

    /// Whether the workers of the process share its answers, so that one of them asks it for all. Envoy serves a file on this machine, and
    /// each worker reads it itself: the token stays out of shared data.
    pub(crate) fn is_shared(&self) -> bool {
        !self.holds_token()
    }

    /// How long an answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        match self {
            // Envoy serves it from a file on this machine.
            Self::File { .. } => Duration::from_secs(2),
            Self::Http { http, .. } => http.timeout,
        }
    }

    /// The time until which an assertion that was requested at `asked_at` is used again. It serves the exchanges of a burst, such as those
    /// of forty scopes at the start of an app. For a file a longer time would delay the use of a renewed token.
    pub(crate) fn reuse_until(&self, assertion: &Assertion, asked_at: Timestamp) -> Timestamp {
        match self {
            Self::File { .. } => asked_at.plus(Duration::from_secs(1)),
            Self::Http { http, .. } => http.reuse_until(assertion, asked_at),
        }
    }

    /// How long the source is not asked again after a failure.
    pub(crate) fn back_off(&self, problem: &Problem) -> Duration {
        match self {
            Self::File { .. } => Duration::from_secs(1),
            Self::Http { .. } => HttpSource::back_off(problem),
        }
    }

    /// The pause after which the source is asked again at once, or `None` if this problem of the `attempt`-th call (1 is the first) is
    /// final. `random` gives numbers that are uniform in 0..=u32::MAX.
    pub(crate) fn pause_before_retry(
        &self,
        problem: &Problem,
        attempt: u32,
        random: &mut dyn FnMut() -> u32,
    ) -> Option<Duration> {
        match self {
            // A file without a JWT may have been read while it was being written.
            Self::File { .. } => {
                (problem.code == Code::AssertionMalformed && attempt == 1).then_some(Duration::from_millis(100))
            }
            Self::Http { http, .. } => http.pause_before_retry(problem, attempt, random),
        }
    }

    /// The call that asks the source. `input` is the assertion of [`Source::input`].
    pub(crate) fn call(&self, input: Option<&Assertion>) -> HttpCall {
        match self {
            Self::File { cluster } => HttpCall {
                cluster: cluster.clone(),
                method: "GET",
                authority: cluster.clone(),
                path: "/".to_owned(),
                headers: Vec::new(),
                body: Vec::new(),
                timeout: self.timeout(),
            },
            Self::Http { http, .. } => http.call(input),
        }
    }

    /// Reads the assertion from the answer and checks that it is valid at `now`. `input` is the assertion that the call contained.
    ///
    /// # Errors
    /// The problem of this source, which names no identity.
    pub(crate) fn read(
        &self,
        answer: CallResult,
        input: Option<&Assertion>,
        now: Timestamp,
    ) -> Result<Assertion, Problem> {
        let cluster = match self {
            Self::File { cluster } => cluster,
            Self::Http { http, .. } => return http.read(answer, input, now),
        };
        let answer =
            answer.map_err(|failure| Problem::uncalled(failure, cluster, "which serves the federated token"))?;
        if answer.status != 200 {
            return Err(Problem::new(
                Code::AssertionUnavailable,
                format!("cluster {cluster:?} answered {} instead of the federated token", answer.status),
                MOUNT_THE_FILE,
            )
            .unreached());
        }
        Assertion::parse(&answer.body, now)
    }

    /// Reads an assertion that another worker got, and checks that it is still valid.
    ///
    /// # Errors
    /// It has expired, or it is not from this source.
    pub(crate) fn parse(&self, token: &[u8], now: Timestamp) -> Result<Assertion, Problem> {
        match self {
            Self::File { .. } => Assertion::parse(token, now),
            Self::Http { http, .. } => Assertion::parse_expected(token, &http.expected, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::NOW;
    use super::*;
    use crate::http::{CallFailure, CallResponse};

    #[test]
    fn a_failed_read_names_the_cluster() {
        let source = Source::File { cluster: "projected_token".into() };
        let answer = Ok(CallResponse {
            status: 503,
            retry_after: None,
            request_id: None,
            grpc: None,
            body: b"no healthy upstream".to_vec(),
            is_envoys_own: true,
        });
        let problem = source.read(answer, None, NOW).err().unwrap();
        assert_eq!(problem.code, Code::AssertionUnavailable);
        assert!(problem.detail.contains("projected_token") && problem.detail.contains("503"));
        let problem = source.read(Err(CallFailure::NoSuchCluster), None, NOW).err().unwrap();
        assert_eq!(problem.code, Code::ClusterMissing);
    }
}
