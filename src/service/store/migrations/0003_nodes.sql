-- Several nodes over one database; a node that works alone leaves these tables empty.

-- A node counts as alive until then; then others take over what it had in hand.
CREATE TABLE nodes (
    node TEXT PRIMARY KEY,
    program TEXT NOT NULL,
    started_ms BIGINT NOT NULL,
    alive_until_ms BIGINT NOT NULL
);

-- Which node may hold instances of a series that nobody else has been told of; `mark` tells one announcement from the next.
CREATE TABLE receivers (
    series TEXT NOT NULL REFERENCES series (series),
    node TEXT NOT NULL,
    mark BIGINT NOT NULL,
    PRIMARY KEY (series, node)
);

-- What arrived where, a few instances a row, until the series is complete.
CREATE TABLE arrivals (
    id {identity},
    series TEXT NOT NULL REFERENCES series (series),
    node TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    instances TEXT NOT NULL
);
CREATE INDEX arrivals_of ON arrivals (series);

-- Which node waits for a series to come to rest.
ALTER TABLE series ADD COLUMN gatherer TEXT;
ALTER TABLE series ADD COLUMN gather_until_ms BIGINT;
-- Until when a node removes what was kept of a series; nothing of it is taken meanwhile.
ALTER TABLE series ADD COLUMN removing_until_ms BIGINT;
CREATE INDEX series_state ON series (state);

-- The number of the last migration that a program must know to use these tables. Migrations add; one that changes what
-- older programs rely on raises it, in a release of its own.
CREATE TABLE compatibility (oldest BIGINT NOT NULL);
INSERT INTO compatibility (oldest) VALUES (1);
