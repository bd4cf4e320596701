-- Which deployment a call went to.
ALTER TABLE tollway_spend ADD COLUMN model_id TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE tollway_spend SET model_id = COALESCE(CAST(record AS jsonb)->>'model_id', '');

-- Sums by four more dimensions, of what there is: 9 team and model group, 10 user and model group,
-- 11 team and user, 12 deployment. Who has no team is in none.
INSERT INTO tollway_sums (dimension, span, start_ms, subject, part, calls, failed, cache_hits,
    prompt_tokens, completion_tokens, dollars, picos)
SELECT d.dimension, l.span, s.started_ms - s.started_ms % l.length,
    CASE d.dimension WHEN 10 THEN s.user_id WHEN 12 THEN s.model_id ELSE s.team_id END,
    CASE d.dimension WHEN 11 THEN s.user_id WHEN 12 THEN '' ELSE s.model_group END,
    COUNT(*), CAST(SUM(s.failed) AS BIGINT), CAST(SUM(s.cache_hit) AS BIGINT),
    CAST(SUM(s.prompt_tokens) AS BIGINT), CAST(SUM(s.completion_tokens) AS BIGINT),
    CAST(SUM(s.dollars) AS BIGINT) + CAST(SUM(s.picos) AS BIGINT) / 1000000000000,
    CAST(SUM(s.picos) AS BIGINT) % 1000000000000
FROM tollway_spend s
CROSS JOIN (SELECT 9 AS dimension UNION ALL SELECT 10 UNION ALL SELECT 11 UNION ALL SELECT 12) d
CROSS JOIN (SELECT 1 AS span, 60000 AS length UNION ALL SELECT 2, 3600000
    UNION ALL SELECT 3, 86400000) l
WHERE (d.dimension NOT IN (9, 11) OR s.team_id <> '')
    AND (d.dimension NOT IN (10, 11) OR s.user_id <> '')
    AND (d.dimension <> 12 OR s.model_id <> '')
GROUP BY 1, 2, 3, 4, 5;
