//! Reads environment variables.

use crate::problem::{Code, Problem};

/// The value of an environment variable; `None` if it is not set or empty.
///
/// # Errors
/// If the value begins or ends with white space: a Secret that was created from a file often ends in a line break. A header
/// value cannot end in one (RFC 9110, section 5.5), and neither can an id.
pub(super) fn read_variable(name: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, Problem> {
    match variable(name).filter(|text| !text.is_empty()) {
        Some(text) if text.trim() != text => Err(Problem::new(
            Code::EnvVarMissing,
            format!("{name} begins or ends with white space"),
            format!(
                "Remove the white space from {name}. A Secret that was created with echo ends in a line break: use printf or \
                 echo -n."
            ),
        )),
        text => Ok(text),
    }
}

/// One problem that names every variable that is missing or wrong, so that one restart of the pod is enough.
pub(super) fn combined(problems: impl Iterator<Item = Problem>) -> Problem {
    let (mut details, mut remedies) = (Vec::new(), Vec::new());
    for problem in problems {
        details.push(problem.detail);
        if !remedies.contains(&problem.remedy) {
            remedies.push(problem.remedy);
        }
    }
    Problem::new(Code::EnvVarMissing, details.join("; "), remedies.join(" "))
}
