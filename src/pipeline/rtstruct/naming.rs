//! ROI names that a planning system takes: short enough, unique whatever their case.

/// Longest ROI name by default, and longest label: Eclipse takes 16 characters, DICOM itself 64 for a name.
pub(crate) const LONGEST_NAME: usize = 16;

/// Makes names fit, in order, and says what was changed.
pub(crate) fn fit_names(wanted: &[&str], longest: usize, only_ascii: bool) -> (Vec<String>, Vec<String>) {
    let mut names: Vec<String> = Vec::with_capacity(wanted.len());
    let mut taken = std::collections::BTreeSet::new();
    let mut notes = Vec::new();
    for wanted in wanted {
        let plain = plain(wanted, only_ascii);
        let mut name: String = cut(&plain, longest);
        let mut count = 1;
        while !taken.insert(name.to_lowercase()) {
            count += 1;
            let suffix = format!("_{count}");
            name = cut(&plain, longest.saturating_sub(suffix.len())) + &suffix;
        }
        if name != *wanted {
            notes.push(format!("ROI name {wanted:?} is written as {name:?} ({longest} characters, unique)"));
        }
        names.push(name);
    }
    (names, notes)
}

/// A label of at most 16 characters.
pub(crate) fn fit_label(wanted: &str) -> String {
    cut(&plain(wanted, false), LONGEST_NAME)
}

fn plain(wanted: &str, only_ascii: bool) -> String {
    let allowed =
        |c: char| if c.is_control() || c == '\\' || (only_ascii && !c.is_ascii()) { '_' } else { c };
    let name: String = wanted.trim().chars().map(allowed).collect();
    if name.is_empty() { "ROI".to_owned() } else { name }
}

fn cut(name: &str, length: usize) -> String {
    name.chars().take(length).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_agree_in_sixteen_characters_stay_apart() {
        let (names, notes) = fit_names(
            &["Submandibular gland L", "submandibular GLAND R", "Lens_L", "Naïve\\x", ""],
            16,
            true,
        );
        assert_eq!(names, ["Submandibular gl", "submandibular_2", "Lens_L", "Na_ve_x", "ROI"]);
        assert_eq!(notes.len(), 4, "{notes:?}");
        assert!(names.iter().all(|name| name.len() <= 16));
    }

    #[test]
    fn names_of_other_languages_are_counted_in_characters_and_compared_without_case() {
        let wanted = ["Ohrspeicheldrüse_L", "OHRSPEICHELDRÜSE_R", "Ohrspeicheldrüse_L"];
        let (names, _) = fit_names(&wanted, 16, false);
        assert_eq!(names, ["Ohrspeicheldrüse", "OHRSPEICHELDRÜ_2", "Ohrspeicheldrü_3"]);
        assert_eq!(fit_names(&wanted[..2], 64, false).0, wanted[..2]);
    }
}
