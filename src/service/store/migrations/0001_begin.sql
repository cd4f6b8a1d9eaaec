-- One text for SQLite and PostgreSQL: BIGINT and TEXT only; {identity} is each one's counting key.
-- Times are milliseconds since 1970. `was` is the state before, so that the moves can be constraints.

CREATE TABLE series (
    series TEXT PRIMARY KEY,
    was TEXT NOT NULL,
    state TEXT NOT NULL,
    calling_ae_title TEXT NOT NULL,
    n_instances BIGINT NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    CONSTRAINT series_moves CHECK (was || '>' || state IN (
        'new>receiving', 'receiving>complete', 'complete>receiving'))
);

-- What a version is. `instances` (class and UID, a line each) is kept until its job has ended.
CREATE TABLE versions (
    series TEXT NOT NULL REFERENCES series (series),
    version BIGINT NOT NULL,
    fingerprint TEXT NOT NULL,
    n_instances BIGINT NOT NULL,
    instances TEXT,
    choice TEXT NOT NULL,
    result TEXT,
    organs TEXT,
    completed_ms BIGINT NOT NULL,
    PRIMARY KEY (series, version)
);

-- What is done with it. `priority`: 0 urgent, 1 normal, 2 off-peak.
CREATE TABLE jobs (
    series TEXT NOT NULL,
    version BIGINT NOT NULL,
    was TEXT NOT NULL,
    state TEXT NOT NULL,
    priority BIGINT NOT NULL,
    not_before_ms BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    reason TEXT,
    lease_owner TEXT,
    lease_until_ms BIGINT,
    created_ms BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (series, version),
    FOREIGN KEY (series, version) REFERENCES versions (series, version),
    CONSTRAINT jobs_moves CHECK (was || '>' || state IN (
        'new>waiting', 'new>passed_over', 'waiting>working', 'waiting>waiting', 'waiting>superseded',
        'waiting>failed', 'working>waiting', 'working>contoured', 'working>refused', 'working>failed',
        'failed>waiting', 'failed>superseded', 'refused>waiting', 'passed_over>waiting')),
    CONSTRAINT jobs_lease CHECK ((state = 'working') = (lease_owner IS NOT NULL))
);
CREATE INDEX jobs_due ON jobs (state, priority, created_ms);

CREATE TABLE deliveries (
    delivery TEXT NOT NULL,
    destination TEXT NOT NULL,
    series TEXT,
    version BIGINT,
    was TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    since_ms BIGINT NOT NULL,
    next_attempt_ms BIGINT NOT NULL,
    delivered_ms BIGINT,
    last_error TEXT,
    warning TEXT,
    lease_owner TEXT,
    lease_until_ms BIGINT,
    PRIMARY KEY (delivery, destination),
    CONSTRAINT deliveries_moves CHECK (was || '>' || state IN (
        'new>pending', 'new>held', 'new>delivered', 'pending>pending', 'pending>delivered', 'pending>failed',
        'pending>held', 'delivered>pending', 'failed>pending', 'held>pending'))
);
CREATE INDEX deliveries_due ON deliveries (destination, state, next_attempt_ms);
CREATE INDEX deliveries_of ON deliveries (series, version);

CREATE TABLE history (
    id {identity},
    at_ms BIGINT NOT NULL,
    subject TEXT NOT NULL,
    series TEXT,
    version BIGINT,
    destination TEXT,
    was TEXT NOT NULL,
    became TEXT NOT NULL,
    cause TEXT NOT NULL
);
CREATE INDEX history_of ON history (series, id);
