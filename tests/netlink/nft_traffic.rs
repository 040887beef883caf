//! Rules at work: real packets between namespaces.
