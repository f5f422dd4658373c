-- A shop's year in SQLite: the program that `make run` puts on Freehold's heap. Nothing here knows of Freehold.
-- All is computed from the row number, so the answers are the same on every run and under every malloc.
PRAGMA temp_store = MEMORY;
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, city TEXT, note TEXT);
CREATE TABLE article(id INTEGER PRIMARY KEY, title TEXT, price INTEGER, tags TEXT);
CREATE TABLE sale(id INTEGER PRIMARY KEY, customer INTEGER, article INTEGER, day TEXT, amount INTEGER);

BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO customer
SELECT i, printf('customer %05d', i), 'city ' || (i * 7919 % 211),
       substr(hex(zeroblob(i * 31 % 97)), 1, i * 31 % 97) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
INSERT INTO article
SELECT i, printf('article %04d', i), 99 + i * 6101 % 9000,
       json_array('tag' || (i % 17), 'tag' || (i % 5), printf('%.*c', i % 60, 'x')) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
INSERT INTO sale
SELECT i, 1 + i * 48271 % 20000, 1 + i * 69621 % 3000, date('2024-01-01', (i * 131 % 366) || ' days'),
       1 + i % 4 FROM n;
COMMIT;

CREATE INDEX sale_customer ON sale(customer);
CREATE INDEX sale_article ON sale(article, day);
CREATE INDEX customer_city ON customer(city, name);

.mode column
.headers on
SELECT count(*) AS sales, sum(s.amount * a.price) / 100 AS revenue, count(DISTINCT s.customer) AS buyers
FROM sale s JOIN article a ON a.id = s.article;

SELECT c.city, count(*) AS sales, sum(s.amount * a.price) / 100 AS revenue
FROM sale s JOIN customer c ON c.id = s.customer JOIN article a ON a.id = s.article
GROUP BY c.city ORDER BY revenue DESC, c.city LIMIT 3;

SELECT j.value AS tag, count(*) AS articles, max(length(a.tags)) AS longest
FROM article a, json_each(a.tags) j WHERE j.value LIKE 'tag%' GROUP BY tag ORDER BY articles DESC, tag LIMIT 3;

SELECT length(group_concat(upper(name) || ':' || replace(city, 'city', 'town'), ', ')) AS letters FROM customer;

SELECT day, sum(amount) AS pieces, sum(sum(amount)) OVER (ORDER BY day) AS so_far
FROM sale GROUP BY day ORDER BY day DESC LIMIT 3;

DELETE FROM sale WHERE id % 3 = 0;
UPDATE customer SET note = note || note || name WHERE id % 5 = 0;
SELECT count(*) AS sales_left, (SELECT sum(length(note)) FROM customer) AS note_bytes FROM sale;
