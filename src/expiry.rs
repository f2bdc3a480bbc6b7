//! Certificates that expire are told of ahead: when the configuration is read, and from then on once a day.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use tracing::field::display;

use crate::config::{Config, Name};
use crate::downstream::certificates::Certificate;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// From so many days ahead.
const AHEAD: u32 = 14;

/// What there is to say of a certificate's dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dates {
    /// It is not valid yet.
    Early,
    /// It is valid for longer than anybody has to be told.
    Fine,
    /// It expires in so many whole days.
    Expires {
        /// Fewer than 14.
        days: u64,
    },
    /// It has expired.
    Expired,
}

impl Dates {
    /// Of one that is valid from then to then.
    pub fn of(valid: &Range<SystemTime>, now: SystemTime) -> Self {
        match valid.end.duration_since(now) {
            Err(_) => Self::Expired,
            Ok(_) if now < valid.start => Self::Early,
            Ok(left) if left < AHEAD * DAY => Self::Expires { days: left.as_secs() / DAY.as_secs() },
            Ok(_) => Self::Fine,
        }
    }
}

/// When certificates are told of again. By the clock on the wall, as they expire by it.
#[derive(Debug)]
pub struct Daily {
    next: SystemTime,
}

impl Daily {
    /// They have been told of now, when the configuration was read.
    pub fn from(now: SystemTime) -> Self {
        Self { next: now + DAY }
    }

    /// Says which certificates expire or have expired, unless a day has not passed.
    pub fn tell(&mut self, config: &Config, now: SystemTime) {
        // A clock that was set back is no reason to be silent until it has come so far again.
        let is_far = self.next.duration_since(now).is_ok_and(|until| until > DAY);
        if now < self.next && !is_far {
            return;
        }
        self.next = now + DAY;
        config
            .listener_certificates()
            .for_each(|(listener, certificate)| tell_of(certificate, Some(listener), None, now));
        config
            .upstream_certificates()
            .for_each(|(upstream, certificate)| tell_of(certificate, None, Some(upstream), now));
    }
}

/// Of one, which a listener or an upstream shows.
fn tell_of(certificate: &Certificate, listener: Option<&Name>, upstream: Option<&Name>, now: SystemTime) {
    let (listener, upstream) = (listener.map(display), upstream.map(display));
    let (file, expires) = (certificate.file.display(), date(certificate.valid.end));
    match Dates::of(&certificate.valid, now) {
        Dates::Expires { days } => {
            tracing::warn!(listener, upstream, certificate = %file, expires, days, "a certificate expires");
        }
        Dates::Expired => {
            tracing::error!(listener, upstream, certificate = %file, expires, "a certificate has expired");
        }
        Dates::Early | Dates::Fine => {}
    }
}

/// The day.
pub fn date(time: SystemTime) -> String {
    // humantime tells no time before 1970.
    let time = humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH)).to_string();
    time.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_from_two_weeks_ahead() {
        let now = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        let valid = |from: i64, to: i64| {
            let at = |seconds: i64| match u64::try_from(seconds) {
                Ok(later) => now + Duration::from_secs(later),
                Err(_) => now - Duration::from_secs(seconds.unsigned_abs()),
            };
            at(from)..at(to)
        };
        let day = 24 * 60 * 60;
        for (valid, expected) in [
            (valid(-day, 90 * day), Dates::Fine),
            (valid(-day, 14 * day), Dates::Fine),
            (valid(-day, 14 * day - 1), Dates::Expires { days: 13 }),
            (valid(-day, day - 1), Dates::Expires { days: 0 }),
            (valid(-day, -1), Dates::Expired),
            (valid(1, day), Dates::Early),
            (valid(-1, 3 * day), Dates::Expires { days: 3 }),
        ] {
            assert_eq!(Dates::of(&valid, now), expected, "{valid:?}");
        }
    }

    #[test]
    fn a_day_passes_by_the_clock_on_the_wall_even_when_that_is_set_back() {
        let now = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        let config = Config::parse(
            "test",
            "[[listener]]\nbind = \"127.0.0.1:1\"\n[[route]]\nrespond = 204\n",
            std::path::Path::new("."),
        );
        let config = config.unwrap();
        let mut daily = Daily::from(now);
        for (at, next) in
            [(now, now + DAY), (now + DAY, now + 2 * DAY), (now, now + DAY), (now - 5 * DAY, now - 4 * DAY)]
        {
            daily.tell(&config, at);
            assert_eq!(daily.next, next);
        }
    }
}
