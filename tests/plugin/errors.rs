//! From an error to the error document.

use cnikit::plugin::{Context, ErrorCollector, PluginError};
use cnikit::spec::{ErrorCode, HasErrorCode, Version};

const NO_BRIDGE: ErrorCode = ErrorCode::plugin_specific(101);

#[derive(Debug, thiserror::Error)]
#[error("cannot read the lease {path}")]
struct LeaseError {
    path: &'static str,
    source: ParseError,
}

#[derive(Debug, thiserror::Error)]
#[error("line 3 is not an address")]
struct ParseError(#[source] std::net::AddrParseError);

impl HasErrorCode for LeaseError {
    fn code(&self) -> ErrorCode {
        NO_BRIDGE
    }
}

fn lease_error() -> LeaseError {
    let source = "here".parse::<std::net::IpAddr>().expect_err("no address");
    LeaseError { path: "/leases/1", source: ParseError(source) }
}

fn verb() -> Result<(), PluginError> {
    Err(lease_error())?
}

#[test]
fn the_message_is_the_error_and_the_details_are_its_sources() {
    let error = verb().unwrap_err();
    assert_eq!(error.code.value(), 101);
    assert_eq!(error.msg, "cannot read the lease /leases/1");
    assert_eq!(error.details, "line 3 is not an address: invalid IP address syntax");
    assert_eq!(
        error.to_string(),
        "cannot read the lease /leases/1: line 3 is not an address: invalid IP address syntax"
    );
}

#[test]
fn context_precedes_the_message() {
    let inner: Result<(), _> = Err(lease_error());
    let error = inner.context("free the address").context("undo").unwrap_err();
    assert_eq!(error.msg, "undo: free the address: cannot read the lease /leases/1");
    assert_eq!(error.details, "line 3 is not an address: invalid IP address syntax");
}

#[test]
fn any_error_gets_the_chosen_code() {
    let foreign = "x".parse::<u32>().with_code(ErrorCode::DECODE).context("parse the MTU").unwrap_err();
    assert_eq!(foreign, PluginError::new(ErrorCode::DECODE, "parse the MTU: invalid digit found in string"));
    // The sources stay.
    let mut expected = verb().unwrap_err();
    expected.code = ErrorCode::IO;
    assert_eq!(Err::<(), _>(lease_error()).with_code(ErrorCode::IO).unwrap_err(), expected);
    // A plugin error keeps its details, which are not a source.
    assert_eq!(verb().with_code(ErrorCode::IO).unwrap_err(), expected);
    assert_eq!(PluginError::from_error(ErrorCode::IO, &lease_error()), expected);
}

#[test]
fn a_reference_has_the_code_of_its_error() {
    fn of_reference(error: &LeaseError) -> Result<(), PluginError> {
        Err(error)?
    }
    assert_eq!(of_reference(&lease_error()), verb());
}

#[test]
fn two_errors_add_up() {
    let other = PluginError::new(ErrorCode::IO, "no link").details("ENODEV");
    let both = verb().unwrap_err().and(other.clone());
    assert_eq!((both.code, both.msg.as_str()), (NO_BRIDGE, "cannot read the lease /leases/1; no link"));
    assert_eq!(both.details, "line 3 is not an address: invalid IP address syntax; ENODEV");
    let both = PluginError::new(NO_BRIDGE, "no bridge").and(other);
    assert_eq!((both.msg.as_str(), both.details.as_str()), ("no bridge; no link", "ENODEV"));
}

#[test]
fn the_document_omits_empty_details() {
    let document = PluginError::new(NO_BRIDGE, "no bridge").into_document(Version::V0_4_0);
    assert_eq!(serde_json::to_string(&document).unwrap(), r#"{"cniVersion":"0.4.0","code":101,"msg":"no bridge"}"#);
}

#[test]
fn the_collector_combines_errors() {
    ErrorCollector::default().into_result().unwrap();
    let mut errors = ErrorCollector::default();
    assert_eq!(errors.push(Ok::<_, PluginError>(5)), Some(5));
    assert_eq!(errors.push(verb()), None);
    errors.push(Err::<(), _>(PluginError::new(ErrorCode::IO, "no link").details("ENODEV")));
    errors.push(Err::<(), _>(PluginError::new(ErrorCode::IO, "no rule")));
    let error = errors.into_result().unwrap_err();
    assert_eq!(error.code, NO_BRIDGE);
    assert_eq!(error.msg, "cannot read the lease /leases/1; no link; no rule");
    assert_eq!(error.details, "line 3 is not an address: invalid IP address syntax; ENODEV");
}
