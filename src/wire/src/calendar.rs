//! Days of the Gregorian calendar, counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible
//! Low-Level Date Algorithms"). Years begin in March there, so that the leap day is a year's last.

/// From the first of March of the year 0 to the epoch.
const EPOCH: u64 = 719_468;
/// The days of four centuries.
const ERA: u64 = 146_097;

/// Year, month and day of a day since the epoch.
pub fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH;
    let (era, day_of_era) = (days / ERA, days % ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil`]: below 0 before the epoch.
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * ERA as i64 + day_of_era - EPOCH as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_days_and_days_dates() {
        for (date, expect) in [
            ((1970, 1, 1), 0),
            ((1972, 2, 29), 789),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 22), 20_779),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(civil(expect), date);
            assert_eq!(days(date.0 as i64, date.1 as i64, date.2 as i64), expect as i64);
        }
        assert_eq!(days(1969, 12, 31), -1);
        for day in 0..200_000 {
            let (year, month, date) = civil(day);
            assert_eq!(days(year as i64, month as i64, date as i64), day as i64);
        }
    }
}
