BEGIN TRANSACTION;

CREATE TABLE author (
    id         INTEGER PRIMARY KEY,
    name       VARCHAR(120) NOT NULL,
    born       INTEGER
);

CREATE TABLE book (
    id         INTEGER PRIMARY KEY,
    title      VARCHAR(200) NOT NULL,
    author_id  INTEGER NOT NULL REFERENCES author (id) ON DELETE CASCADE,
    published  DATE,
    copies     INTEGER NOT NULL DEFAULT 1 CHECK (copies >= 0)
);

CREATE INDEX book_by_author ON book (author_id, published);

INSERT INTO author (id, name, born) VALUES
    (1, 'Ada Nordqvist', 1931),
    (2, 'Joao Pereira', 1958);

INSERT INTO book (id, title, author_id, published, copies) VALUES
    (1, 'The Glass Harbour', 1, '1964-05-12', 3),
    (2, 'A Short History of Bells', 2, '1999-10-01', 1);

SELECT a.name, COUNT(b.id) AS titles, SUM(b.copies) AS copies
FROM author AS a
LEFT JOIN book AS b ON b.author_id = a.id
WHERE a.born < 1960
GROUP BY a.name
HAVING COUNT(b.id) > 0
ORDER BY copies DESC, a.name ASC;

UPDATE book SET copies = copies - 1 WHERE id = 1 AND copies > 0;

COMMIT;
