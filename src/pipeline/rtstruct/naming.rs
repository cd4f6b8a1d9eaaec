//! ROI names that a planning system takes: at most 16 characters, unique whatever their case.

/// Longest ROI name and label: Eclipse takes 16 characters, DICOM itself 64.
pub(crate) const LONGEST_NAME: usize = 16;

/// Makes names fit, in order, and says what was changed.
pub(crate) fn fit_names(wanted: &[&str]) -> (Vec<String>, Vec<String>) {
    let mut names: Vec<String> = Vec::with_capacity(wanted.len());
    let mut notes = Vec::new();
    for wanted in wanted {
        let plain = plain(wanted);
        let mut name: String = cut(&plain, LONGEST_NAME);
        let mut count = 1;
        while names.iter().any(|taken| taken.eq_ignore_ascii_case(&name)) {
            count += 1;
            let suffix = format!("_{count}");
            name = cut(&plain, LONGEST_NAME - suffix.len()) + &suffix;
        }
        if name != *wanted {
            notes.push(format!("ROI name {wanted:?} is written as {name:?} (16 characters, unique, ASCII)"));
        }
        names.push(name);
    }
    (names, notes)
}

/// A label of at most 16 characters.
pub(crate) fn fit_label(wanted: &str) -> String {
    cut(&plain(wanted), LONGEST_NAME)
}

fn plain(wanted: &str) -> String {
    let allowed = |c: char| if (c.is_ascii_graphic() && c != '\\') || c == ' ' { c } else { '_' };
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
        let (names, notes) =
            fit_names(&["Submandibular gland L", "submandibular GLAND R", "Lens_L", "Naïve\\x", ""]);
        assert_eq!(names, ["Submandibular gl", "submandibular_2", "Lens_L", "Na_ve_x", "ROI"]);
        assert_eq!(notes.len(), 4, "{notes:?}");
        assert!(names.iter().all(|name| name.len() <= 16));
    }
}
