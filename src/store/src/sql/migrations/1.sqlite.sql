-- The number of changes to objects so far. Every change takes the next one, so that changes come
-- one after the other.
CREATE TABLE tollway_counter (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO tollway_counter VALUES (1, 0);

-- Keys, users, teams ... One without a body is gone; its row stays to tell other nodes. Its rows
-- are about in the order of versions, in which all of them are read at the start.
CREATE TABLE tollway_objects (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    alias TEXT,
    user_id TEXT,
    team_id TEXT,
    body TEXT,
    version INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT;
CREATE UNIQUE INDEX tollway_objects_alias ON tollway_objects (kind, alias);
CREATE INDEX tollway_objects_user ON tollway_objects (kind, user_id, id);
CREATE INDEX tollway_objects_team ON tollway_objects (kind, team_id, id);
CREATE INDEX tollway_objects_version ON tollway_objects (version);

CREATE TABLE tollway_audit (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    version INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    before TEXT,
    after TEXT
) STRICT;
CREATE INDEX tollway_audit_object ON tollway_audit (kind, id, n);

-- Who writes spend. `forgotten_seq`: the highest record that retention has taken.
CREATE TABLE tollway_nodes (
    node INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL,
    forgotten_seq INTEGER
) STRICT;

CREATE TABLE tollway_ledger (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    forgotten_before INTEGER NOT NULL
) STRICT;
INSERT INTO tollway_ledger VALUES (1, 0);

-- One row per call. `record` is all of it; the columns are what it is found and added up by. Money
-- is dollars and pico-dollars, because more than nine million dollars of the latter overflow.
CREATE TABLE tollway_spend (
    node INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    user_id TEXT NOT NULL,
    team_id TEXT NOT NULL,
    end_user TEXT NOT NULL,
    model_group TEXT NOT NULL,
    provider TEXT NOT NULL,
    failed INTEGER NOT NULL,
    cache_hit INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    dollars INTEGER NOT NULL,
    picos INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (node, seq)
) STRICT;
CREATE INDEX tollway_spend_started ON tollway_spend (started_ms);
CREATE INDEX tollway_spend_request ON tollway_spend (request_id);
CREATE INDEX tollway_spend_key ON tollway_spend (key_hash, started_ms);
CREATE INDEX tollway_spend_user ON tollway_spend (user_id, started_ms) WHERE user_id <> '';
CREATE INDEX tollway_spend_team ON tollway_spend (team_id, started_ms) WHERE team_id <> '';
CREATE INDEX tollway_spend_end_user ON tollway_spend (end_user, started_ms) WHERE end_user <> '';

CREATE TABLE tollway_spend_tags (
    tag TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    node INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (tag, started_ms, node, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX tollway_spend_tags_record ON tollway_spend_tags (node, seq);

-- Sums of what was inserted into tollway_spend, whether it is still there or not.
-- `dimension`: 0 total, 1 key, 2 user, 3 team, 4 end user, 5 model group, 6 provider, 7 tag,
-- 8 key and model group (`part`). `span`: 1 minute, 2 hour, 3 day.
CREATE TABLE tollway_sums (
    dimension INTEGER NOT NULL,
    span INTEGER NOT NULL,
    start_ms INTEGER NOT NULL,
    subject TEXT NOT NULL,
    part TEXT NOT NULL,
    calls INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cache_hits INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    dollars INTEGER NOT NULL,
    picos INTEGER NOT NULL,
    PRIMARY KEY (dimension, span, start_ms, subject, part)
) STRICT, WITHOUT ROWID;
