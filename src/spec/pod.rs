use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::lenient::invalid_as_none;
use super::{Args, Error, PodName, PodNamespace, PodUid};

/// The Kubernetes pod of an attachment, as the container runtime names it in `CNI_ARGS`.
///
/// A runtime other than Kubernetes may set some of the keys: podman sets `K8S_POD_NAME` alone.
///
/// ```
/// use cnikit::spec::{Args, KubernetesPod};
///
/// let args: Args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0".parse()?;
/// let pod = KubernetesPod::from_args(&args);
/// assert_eq!(pod.to_string(), "default/web-0");
/// assert_eq!(pod.uid, None);
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KubernetesPod {
    /// The namespace of the pod, from `K8S_POD_NAMESPACE`.
    #[serde(rename = "podNamespace", default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "invalid_as_none")]
    pub namespace: Option<PodNamespace>,
    /// The name of the pod, from `K8S_POD_NAME`.
    #[serde(rename = "podName", default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "invalid_as_none")]
    pub name: Option<PodName>,
    /// The UID of the pod, from `K8S_POD_UID`.
    #[serde(rename = "podUid", default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "invalid_as_none")]
    pub uid: Option<PodUid>,
}

/// The maximum number of characters of a value that an error quotes: a hostile value may have any
/// length.
const MAX_QUOTE: usize = 64;

const NAMESPACE: &str = "K8S_POD_NAMESPACE";
const NAME: &str = "K8S_POD_NAME";
const UID: &str = "K8S_POD_UID";

impl KubernetesPod {
    /// The keys of `CNI_ARGS` that the runtimes of Kubernetes set. A plugin for Kubernetes accepts
    /// them with [`Args::require_known`].
    pub const ARGS: [&str; 4] = [NAMESPACE, NAME, UID, "K8S_POD_INFRA_CONTAINER_ID"];

    /// Reads the pod from `CNI_ARGS`. An empty value counts as absent, and so does an invalid
    /// value, which [`invalid_args`](Self::invalid_args) reports.
    pub fn from_args(args: &Args) -> Self {
        Self {
            namespace: value(args, NAMESPACE).and_then(Result::ok),
            name: value(args, NAME).and_then(Result::ok),
            uid: value(args, UID).and_then(Result::ok),
        }
    }

    /// The values in `CNI_ARGS` that [`from_args`](Self::from_args) drops because they are invalid:
    /// an [`Error::Name`] for each, which quotes at most 64 characters of the value.
    pub fn invalid_args(args: &Args) -> Vec<Error> {
        let errors = [
            value::<PodNamespace>(args, NAMESPACE).and_then(Result::err),
            value::<PodName>(args, NAME).and_then(Result::err),
            value::<PodUid>(args, UID).and_then(Result::err),
        ];
        errors.into_iter().flatten().map(shortened).collect()
    }

    /// Whether neither the name nor the namespace is known.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.name.is_none() && self.namespace.is_none()
    }
}

/// `<namespace>/<name>`; without a namespace, the name alone. `-` stands for an unknown name.
impl fmt::Display for KubernetesPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(self.name.as_ref().map_or("-", PodName::as_str))
    }
}

fn value<T: FromStr<Err = Error>>(args: &Args, key: &str) -> Option<Result<T, Error>> {
    args.value(key).filter(|value| !value.is_empty()).map(str::parse)
}

fn shortened(error: Error) -> Error {
    match error {
        Error::Name { kind, value, rule } if value.chars().count() > MAX_QUOTE => {
            let start: String = value.chars().take(MAX_QUOTE).collect();
            Error::Name { kind, value: start + "…", rule }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Args {
        text.parse().unwrap()
    }

    #[test]
    fn the_pod_is_parsed_from_the_keys_of_runtimes() {
        // The form of containerd.
        let pod = KubernetesPod::from_args(&args(
            "IgnoreUnknown=1;K8S_POD_UID=6f2a7a1e-1d4b-4a52-9b0c-2f1c5f1f4c11;K8S_POD_NAMESPACE=kube-system;\
             K8S_POD_NAME=coredns-7db6d8ff4d-x2x9k;K8S_POD_INFRA_CONTAINER_ID=4fe2c9",
        ));
        assert_eq!(pod.to_string(), "kube-system/coredns-7db6d8ff4d-x2x9k");
        assert_eq!(pod.uid.unwrap().as_str(), "6f2a7a1e-1d4b-4a52-9b0c-2f1c5f1f4c11");
        // The form of podman.
        let pod = KubernetesPod::from_args(&args("IgnoreUnknown=1;K8S_POD_NAME=project_web_1"));
        assert_eq!((pod.to_string().as_str(), pod.is_unnamed()), ("project_web_1", false));
        assert_eq!(KubernetesPod::from_args(&args("K8S_POD_NAMESPACE=default")).to_string(), "default/-");
        assert!(KubernetesPod::from_args(&args("K8S_POD_NAMESPACE=;K8S_POD_NAME=;K8S_POD_UID=")).is_unnamed());
    }

    #[test]
    fn an_invalid_value_is_dropped_and_the_others_are_kept() {
        let long = "a".repeat(254);
        for bad in ["a b", "a\nb", "\u{1b}[2J", "a/b", "../b", "-a", ".a", "_a", "é", "a\u{202e}b", long.as_str()] {
            let args = args(&format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={bad};K8S_POD_UID=1"));
            assert_eq!(KubernetesPod::from_args(&args).to_string(), "default/-", "{bad:?}");
            let errors = KubernetesPod::invalid_args(&args);
            assert_eq!(errors.len(), 1, "{bad:?}");
            let text = errors[0].to_string();
            assert!(text.starts_with("pod name \"") && text.len() < 400 && !text.contains(char::is_control), "{text}");
        }
        let args = args("K8S_POD_NAMESPACE=Default;K8S_POD_NAME=web-0;K8S_POD_UID=a;K8S_POD_INFRA_CONTAINER_ID=?");
        assert_eq!(KubernetesPod::from_args(&args).to_string(), "web-0");
        assert_eq!(KubernetesPod::invalid_args(&args).len(), 1);
        assert!(KubernetesPod::invalid_args(&Args::default()).is_empty());
    }

    /// The names of podman's containers follow `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
    #[test]
    fn a_name_may_end_as_podman_allows() {
        for name in ["web_", "web.", "web-", "w", "Web_1.--"] {
            let args = args(&format!("IgnoreUnknown=1;K8S_POD_NAME={name}"));
            assert_eq!(KubernetesPod::from_args(&args).to_string(), name);
            assert!(KubernetesPod::invalid_args(&args).is_empty());
        }
        for end in ["a_", "a.", "a-"] {
            end.parse::<PodNamespace>().unwrap_err();
            end.parse::<PodUid>().unwrap_err();
        }
    }

    /// Kubernetes limits a label of RFC 1123 to 63 characters, and a subdomain to 253.
    #[test]
    fn names_have_the_lengths_of_kubernetes() {
        "n".repeat(63).parse::<PodNamespace>().unwrap();
        "n".repeat(64).parse::<PodNamespace>().unwrap_err();
        "n".repeat(253).parse::<PodName>().unwrap();
        "n".repeat(254).parse::<PodName>().unwrap_err();
    }

    #[test]
    fn json_has_a_key_for_each_known_part() {
        let pod = KubernetesPod::from_args(&args("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0"));
        let json = serde_json::to_value(&pod).unwrap();
        assert_eq!(json, serde_json::json!({ "podNamespace": "default", "podName": "web-0" }));
        assert_eq!(serde_json::from_value::<KubernetesPod>(json).unwrap(), pod);
        let read = |json| serde_json::from_str::<KubernetesPod>(json).unwrap();
        assert_eq!(read("{}"), KubernetesPod::default());
        assert_eq!(read(r#"{"podNamespace": "a\u001b[2Jb", "podName": 7, "podUid": null}"#), KubernetesPod::default());
    }
}
