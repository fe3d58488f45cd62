//! How long a unary call may take: until its gRPC deadline, less what the answer needs to get there,
//! so that the client reads our answer and not its own timeout.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// Time kept for the way back.
const ANSWER_FIRST: Duration = Duration::from_millis(50);
const TIMEOUT: &str = "grpc-timeout";

/// Time for a call, from its metadata; at most `max`, which is also for a call without a deadline. A
/// deadline too short to answer first leaves half of it.
pub(super) fn time_for(metadata: &MetadataMap, max: Duration) -> Duration {
    let given = metadata.get(TIMEOUT).and_then(|value| parse(value.to_str().ok()?));
    match given {
        None => max,
        Some(given) => given.saturating_sub(ANSWER_FIRST).max(given / 2).min(max),
    }
}

/// `grpc-timeout`: at most eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_leaves_time_for_the_answer() {
        let max = Duration::from_secs(30);
        let cases = [
            (None, max),
            (Some("5S"), Duration::from_millis(4950)),
            (Some("5000m"), Duration::from_millis(4950)),
            (Some("100m"), Duration::from_millis(50)),
            (Some("10m"), Duration::from_millis(5)),
            (Some("99999999H"), max),
            (Some("1M"), max),
            (Some("123456789S"), max),
            (Some("S"), max),
            (Some(""), max),
            (Some("5s"), max),
            (Some("+5S"), max),
        ];
        for (given, expected) in cases {
            let mut metadata = MetadataMap::new();
            if let Some(given) = given {
                metadata.insert(TIMEOUT, given.parse().unwrap());
            }
            assert_eq!(time_for(&metadata, max), expected, "{given:?}");
        }
    }
}
