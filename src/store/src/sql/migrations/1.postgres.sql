-- The number of changes to objects so far. Every change takes the next one, so that changes come
-- one after the other.
CREATE TABLE tollway_counter (
    only_row BIGINT PRIMARY KEY CHECK (only_row = 1),
    version BIGINT NOT NULL
);
INSERT INTO tollway_counter VALUES (1, 0);

-- Keys, users, teams ... One without a body is gone; its row stays to tell other nodes.
CREATE TABLE tollway_objects (
    kind TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    alias TEXT COLLATE "C",
    user_id TEXT COLLATE "C",
    team_id TEXT COLLATE "C",
    body TEXT,
    version BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE UNIQUE INDEX tollway_objects_alias ON tollway_objects (kind, alias);
CREATE INDEX tollway_objects_user ON tollway_objects (kind, user_id, id);
CREATE INDEX tollway_objects_team ON tollway_objects (kind, team_id, id);
CREATE INDEX tollway_objects_version ON tollway_objects (version);

CREATE TABLE tollway_audit (
    n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    before TEXT,
    after TEXT
);
CREATE INDEX tollway_audit_object ON tollway_audit (kind, id, n);

-- Who writes spend. `forgotten_seq`: the highest record that retention has taken.
CREATE TABLE tollway_nodes (
    node BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    last_seq BIGINT NOT NULL,
    forgotten_seq BIGINT
);

CREATE TABLE tollway_ledger (
    only_row BIGINT PRIMARY KEY CHECK (only_row = 1),
    forgotten_before BIGINT NOT NULL
);
INSERT INTO tollway_ledger VALUES (1, 0);

-- One row per call. `record` is all of it; the columns are what it is found and added up by. Money
-- is dollars and pico-dollars, because more than nine million dollars of the latter overflow.
CREATE TABLE tollway_spend (
    node BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    started_ms BIGINT NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    key_hash TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    team_id TEXT COLLATE "C" NOT NULL,
    end_user TEXT COLLATE "C" NOT NULL,
    model_group TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    failed BIGINT NOT NULL,
    cache_hit BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    dollars BIGINT NOT NULL,
    picos BIGINT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (node, seq)
);
CREATE INDEX tollway_spend_started ON tollway_spend (started_ms);
CREATE INDEX tollway_spend_request ON tollway_spend (request_id);
CREATE INDEX tollway_spend_key ON tollway_spend (key_hash, started_ms);
CREATE INDEX tollway_spend_user ON tollway_spend (user_id, started_ms) WHERE user_id <> '';
CREATE INDEX tollway_spend_team ON tollway_spend (team_id, started_ms) WHERE team_id <> '';
CREATE INDEX tollway_spend_end_user ON tollway_spend (end_user, started_ms) WHERE end_user <> '';

CREATE TABLE tollway_spend_tags (
    tag TEXT COLLATE "C" NOT NULL,
    started_ms BIGINT NOT NULL,
    node BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (tag, started_ms, node, seq)
);
CREATE INDEX tollway_spend_tags_record ON tollway_spend_tags (node, seq);

-- Sums of what was inserted into tollway_spend, whether it is still there or not.
-- `dimension`: 0 total, 1 key, 2 user, 3 team, 4 end user, 5 model group, 6 provider, 7 tag,
-- 8 key and model group (`part`). `span`: 1 minute, 2 hour, 3 day.
CREATE TABLE tollway_sums (
    dimension BIGINT NOT NULL,
    span BIGINT NOT NULL,
    start_ms BIGINT NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    part TEXT COLLATE "C" NOT NULL,
    calls BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cache_hits BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    dollars BIGINT NOT NULL,
    picos BIGINT NOT NULL,
    PRIMARY KEY (dimension, span, start_ms, subject, part)
);
