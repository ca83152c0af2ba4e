//! Moments, as certificates know them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment in whole seconds since 1970, UTC.
///
/// Certificates count in seconds, so a comparison with anything finer would differ from what
/// `openssl` says about the same certificate. What lies before 1970 is 1970.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A moment by its seconds since 1970, UTC.
    #[must_use]
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970, UTC.
    #[must_use]
    pub const fn unix_seconds(self) -> u64 {
        self.0
    }

    /// The same moment for the standard library; the far end of time if it cannot say it.
    #[must_use]
    pub fn to_system_time(self) -> SystemTime {
        // 9999-12-31, the last moment that a certificate can name.
        const LAST: u64 = 253_402_300_799;
        UNIX_EPOCH + Duration::from_secs(self.0.min(LAST))
    }

    /// How long it is from `now` to this moment; zero if it has passed.
    #[must_use]
    pub fn remaining(self, now: SystemTime) -> Duration {
        self.to_system_time()
            .duration_since(now)
            .unwrap_or(Duration::ZERO)
    }

    pub(crate) fn from_asn1(seconds: i64) -> Self {
        Self(u64::try_from(seconds).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(
            time.duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = i64::try_from(self.0)
            .ok()
            .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
        match moment {
            Some(moment) => write!(
                f,
                "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
                moment.year(),
                u8::from(moment.month()),
                moment.day(),
                moment.hour(),
                moment.minute(),
                moment.second()
            ),
            None => write!(f, "second {} after 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_prints_as_people_write_it_and_never_panics() {
        let moment = Timestamp::from_unix_seconds(1_795_370_400);
        assert_eq!(moment.to_string(), "2026-11-22 18:00:00 UTC");
        let far = Timestamp::from_unix_seconds(u64::MAX);
        assert!(far.to_string().contains("after 1970"));
        assert!(far.to_system_time() > SystemTime::now());
    }
}
