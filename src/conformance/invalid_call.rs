//! A call with one invalid input, and the required answer of a plugin.

use super::call::{Call, Reply};
use super::fixture::Fixture;
use super::verdict::{Verdict, broken, ensure, unexpected};
use crate::spec::Command;

/// A call with one invalid input.
#[derive(Debug)]
pub(super) struct InvalidCall {
    pub(super) verb: Command,
    /// The expected failure, as a sentence.
    pub(super) description: &'static str,
    /// The accepted error codes. The specification leaves the choice if there are several.
    pub(super) codes: &'static [u64],
    /// The variable that the error message must name.
    pub(super) variable: Option<&'static str>,
    /// Changes a valid call into the invalid one.
    pub(super) change: fn(Call) -> Call,
}

impl InvalidCall {
    /// The call fails and creates nothing.
    pub(super) fn refused_by(&self, fixture: &Fixture<'_>) -> Verdict {
        self.call(fixture)?.failure()
    }

    /// The call fails, and the error document describes the error.
    pub(super) fn answered_by(&self, fixture: &Fixture<'_>) -> Verdict {
        let reply = self.call(fixture)?;
        if reply.succeeded() {
            return broken(format!("the call succeeded: {reply}"));
        }
        let code = reply.json()["code"].as_u64();
        if code.is_none_or(|code| !self.codes.contains(&code)) {
            let codes: Vec<String> = self.codes.iter().map(u64::to_string).collect();
            let expected = format!("{}, with an error document of code {}", self.description, codes.join(" or "));
            return unexpected(expected, reply.to_string());
        }
        let text = format!("{} {}", reply.json()["msg"], reply.json()["details"]);
        let named = self.variable.is_none_or(|variable| text.contains(variable));
        ensure(named, || format!("the message does not name {}: {reply}", self.variable.unwrap_or_default()))
    }

    fn call(&self, fixture: &Fixture<'_>) -> Verdict<Reply> {
        if self.verb == Command::Check {
            return (self.change)(fixture.check(&fixture.attach()?)).run();
        }
        let target = fixture.target()?;
        let reply = (self.change)(fixture.call_for(self.verb.as_str(), &target)).run()?;
        let created = target.created()?;
        if created.is_empty() { Ok(reply) } else { broken(format!("{reply}; and the pod has: {created}")) }
    }
}
