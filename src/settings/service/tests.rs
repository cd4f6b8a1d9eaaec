use super::*;

fn load(text: &str) -> Result<ServiceSettings, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    ServiceSettings::load(file.path()).map_err(|e| {
        let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
        format!("{e} {cause}")
    })
}

/// The example holds every key, commented or not, at its default.
#[test]
fn the_example_is_the_default_and_names_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/service.yaml");
    assert_eq!(ServiceSettings::load(&path).unwrap(), ServiceSettings::default());
    let text = std::fs::read_to_string(path).unwrap();
    let uncommented: String =
        text.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l).to_owned() + "\n").collect();
    assert!(load(&uncommented).unwrap_err().contains("retention.max_gb"));
    let full = load(&uncommented.replace("  max_gb: 500\n", "")).unwrap();
    assert_eq!(full.destinations[0].to.to_string(), "ECLIPSE@10.0.0.5:104");
    assert_eq!(full.destinations.len(), 4);
    assert_eq!(full.listen.callers.len(), 2);
    assert!(full.http.is_some() && full.data_dir.is_some() && full.rules.is_some());
    assert_eq!(full.store.unwrap().lease_s, 60.0);
    assert!(full.listen.tls.is_some() && full.audit.file.is_some());
    assert_eq!(full.audit.syslog.unwrap().to_string(), "tls://audit.hospital.example:6514");
    assert!(full.audit.tls.certificate.is_some());
}

#[test]
fn a_wrong_key_or_value_is_named_with_what_is_allowed() {
    for (text, named) in [
        ("listen: {prot: 104}", ["prot", "port"]),
        ("ae_title: SEVENTEEN_LETTERS", ["ae_title", "1 to 16 characters"]),
        ("series: {quiet_time_s: -1}", ["series.quiet_time_s", "0.001 to"]),
        ("listen: {storage_classes: [mr]}", ["storage_classes", "enhanced_ct"]),
        ("listen: {address: 0.0.0.0}", ["listen.callers", "at least one caller"]),
        ("listen: {address: 0.0.0.0, callers: [{ae_title: A}]}", ["listen.plaintext", "listen.tls"]),
        ("listen: {callers: [{ae_title: A, address: 10.0.0.0/33}]}", ["address", "listen"]),
        ("listen: {tls: {certificate: a, key: b}}", ["listen.tls.client_authorities", "off"]),
        ("listen: {max_in_hand_mb: 7}", ["listen.max_in_hand_mb", "listen.max_instance_mb"]),
        ("listen: {max_connections_per_address: 0}", ["listen.max_connections_per_address", "1 to"]),
        ("audit: {syslog: audit.hospital.example}", ["udp://HOST:514", "found"]),
        ("audit: {patients: some}", ["hashed", "clear"]),
        ("destinations: [{peer: ECLIPSE}]", ["peer", "AET@HOST:PORT"]),
        ("listen: {called_ae_title: mine}", ["called_ae_title", "own"]),
        ("store: {lease_s: 5}", ["postgres", "missing"]),
        (
            "{store: {postgres: {host: db}, s3: {endpoint: 'https://s', bucket: b, access_key_env: A, secret_key_env: B}, \
              lease_s: 0.5}}",
            ["store.lease_s", "1 to 3600"],
        ),
        ("commitment: {report_to: [{ae_title: A}]}", ["report_to", "peer"]),
        (
            "commitment: {report_to: [{ae_title: A, peer: B@c:1}, {ae_title: A, peer: D@e:1}]}",
            ["commitment.report_to", "once"],
        ),
        ("anatomy: {lungs: true}", ["lungs", "one_piece"]),
        ("structure_set: {not_found: invent}", ["invent", "empty_roi"]),
    ] {
        let error = load(text).unwrap_err();
        assert!(named.iter().all(|word| error.contains(word)), "{text}: {error}");
    }
}
