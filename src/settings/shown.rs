//! How settings and their values appear in messages.

use toml::Value;

/// The error for a flag that contradicts the run to resume.
pub(super) fn contradiction(flag: &str, run: &str) -> String {
    format!("{flag} contradicts the run to resume, which {run}; start a new run to change it")
}

/// Formats a setting as its flag.
pub(super) fn as_flag(key: &str, value: &Value) -> String {
    match value {
        Value::Boolean(true) => format!("--{key}"),
        Value::Boolean(false) => format!("--no-{key}"),
        Value::String(text) => format!("--{key} {text}"),
        // Whole numbers are height and width.
        Value::Array(sides) if sides.iter().all(Value::is_integer) && key.ends_with("size") => {
            format!("--{key} {}", join(sides, "x"))
        }
        Value::Array(numbers) => format!("--{key} {}", join(numbers, ",")),
        value => format!("--{key} {}", number(value)),
    }
}

fn join(numbers: &[Value], separator: &str) -> String {
    numbers.iter().map(number).collect::<Vec<_>>().join(separator)
}

/// Formats a value as in a file, but a number with as many digits as the user wrote.
pub(super) fn number(value: &Value) -> String {
    match value {
        // An f32 that was widened to f64 prints more digits than the user wrote.
        Value::Float(number) if f64::from(*number as f32) == *number => (*number as f32).to_string(),
        value => value.to_string(),
    }
}
