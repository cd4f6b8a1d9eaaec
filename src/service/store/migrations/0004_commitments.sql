-- Storage commitment on several nodes; a node that works alone leaves these tables empty.

-- Questions whose report has not been taken yet; a node that reports has a lease.
CREATE TABLE commitments (
    transaction_uid TEXT PRIMARY KEY,
    calling_ae_title TEXT NOT NULL,
    asked_ms BIGINT NOT NULL,
    question TEXT NOT NULL,
    failed_attempts BIGINT NOT NULL,
    not_before_ms BIGINT NOT NULL,
    lease_owner TEXT,
    lease_until_ms BIGINT
);

-- In which series an instance may lie; the bucket says whether it does. A number is the beginning of the SHA-256 of the
-- UID.
CREATE TABLE places (
    instance BIGINT NOT NULL,
    series BIGINT NOT NULL,
    PRIMARY KEY (instance, series)
);
CREATE TABLE place_series (
    number BIGINT PRIMARY KEY,
    series TEXT NOT NULL
);

-- For how many instances of a series that is coming in its sender has asked for commitment.
ALTER TABLE series ADD COLUMN committed BIGINT;
