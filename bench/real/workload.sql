-- SQLite in memory: rows of mixed length, indexes, grouping by text, joins, updates, deletes, JSON, a full sort.
.output /dev/null
PRAGMA temp_store = memory;
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, city TEXT, note TEXT);
CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer INTEGER, amount REAL, tag TEXT, detail TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO customer SELECT i, 'customer ' || i, 'city ' || (i * 7919 % 311), hex(zeroblob(i % 60)) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120000)
INSERT INTO purchase SELECT i, i * 31 % 20000 + 1, i % 977 / 7.0, 'tag' || (i % 53),
  printf('%d:%s', i, substr('abcdefghijklmnopqrstuvwxyz', i % 26 + 1)) FROM n;
CREATE INDEX purchase_customer ON purchase(customer);
CREATE INDEX purchase_tag ON purchase(tag, amount);
CREATE INDEX customer_city ON customer(city);
SELECT city, count(*), sum(amount), max(detail) FROM customer JOIN purchase ON purchase.customer = customer.id
  GROUP BY city ORDER BY 3 DESC;
SELECT tag, group_concat(detail, '-') FROM purchase WHERE customer % 5 = 0 GROUP BY tag;
SELECT upper(name) || lower(city) || length(note) FROM customer ORDER BY note, name DESC;
UPDATE purchase SET detail = detail || detail WHERE id % 3 = 0;
DELETE FROM purchase WHERE id % 4 = 0;
SELECT json_group_array(json_object('id', id, 'detail', detail, 'tag', tag)) FROM purchase WHERE id % 3 = 1;
SELECT count(DISTINCT substr(detail, 2, 5)) FROM purchase;
SELECT a.name FROM customer a, customer b WHERE a.city = b.city AND b.id % 100 = 0 ORDER BY a.name;
VACUUM;
