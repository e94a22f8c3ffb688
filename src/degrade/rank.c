/*
 * rank.c
 *	  Which sentences of a text say most of it.
 *
 * A sentence is a vector of its lexemes, weighted by tf-idf (the sentences are
 * the documents) and of length one, so that the product of two is their cosine.
 * How central a sentence is, is the sum of its cosines with all others: degree
 * centrality of LexRank (Erkan and Radev, Journal of Artificial Intelligence
 * Research 22, 2004) with continuous weights. That sum is the product with the
 * sum of all vectors, so it takes time and memory in proportion to the text,
 * with no graph in between. LexRank's random walk would add little: on an
 * undirected graph it ends up in proportion to just these degrees.
 *
 * Two priors make up for what a single text cannot tell: short sentences and
 * headings say less, and the first sentence says more. The best sentences are
 * picked one by one, the earlier one of equals; one that is too like a picked
 * one says the same again and is passed over, as in MEAD (Radev, Jing, Styś and
 * Tam, Information Processing and Management 40(6), 2004).
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"

#include "rank.h"

/* Two sentences whose cosine is not less say the same. */
#define SAME 0.7

/* How much central a sentence counts as without a word in common. */
#define BASE_SCORE 0.1

/* A sentence of so many words counts half of what a very long one would. */
#define SHORT_SENTENCE 3.0

#define FIRST_SENTENCE_BONUS 1.2
#define HEADING_MALUS 0.5

/* What differs less is a tie: rounding is not the same on all machines. */
#define TIE 1e-5

/* A word of the text. */
typedef struct Term
{
	uint64		lexeme;			/* key */
	int			id;				/* 0, 1, … */
	int			row;			/* the last sentence that has it, */
	int			entry;			/* and where */
	char		status;			/* simplehash's */
} Term;

#define SH_PREFIX termtable
#define SH_ELEMENT_TYPE Term
#define SH_KEY_TYPE uint64
#define SH_KEY lexeme
#define SH_HASH_KEY(table, key) ((uint32) (key))
#define SH_EQUAL(table, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* One word of one sentence. */
typedef struct Entry
{
	int			term;
	float		weight;
} Entry;

/* The sentences as vectors: a sparse matrix, row by row. */
typedef struct Matrix
{
	int			nrows;
	int		   *first;			/* of nrows + 1: where a row begins */
	int			nentries;
	int			maxentries;
	Entry	   *entries;
	int			nterms;
	int			maxterms;
	int		   *frequency;		/* a term's: how many sentences have it */
} Matrix;

/* ---- vectors ---- */

/* Makes room for one more entry. */
static Entry *
add_entry(Matrix *m)
{
	if (m->nentries == m->maxentries)
	{
		m->maxentries *= 2;
		m->entries = repalloc_huge(m->entries,
								   m->maxentries * sizeof(Entry));
	}
	return &m->entries[m->nentries++];
}

/* Gives a term that is new its number. */
static void
add_term(Matrix *m, Term *term)
{
	if (m->nterms == m->maxterms)
	{
		m->maxterms *= 2;
		m->frequency = repalloc_huge(m->frequency,
									 m->maxterms * sizeof(int));
	}
	term->row = -1;
	term->id = m->nterms++;
	m->frequency[term->id] = 0;
}

/* Counts a lexeme in a row. */
static void
count_lexeme(Matrix *m, termtable_hash *terms, int row, uint64 lexeme)
{
	bool		found;
	Term	   *term = termtable_insert(terms, lexeme, &found);

	if (!found)
		add_term(m, term);
	if (term->row != row)
	{
		term->row = row;
		term->entry = m->nentries;
		*add_entry(m) = (Entry) {.term = term->id};
		m->frequency[term->id]++;
	}
	m->entries[term->entry].weight += 1;
}

/* Makes tf-idf of the counts of a row, and its length one. */
static void
weigh_row(Matrix *m, int row)
{
	double		square = 0;

	CHECK_FOR_INTERRUPTS();
	for (int e = m->first[row]; e < m->first[row + 1]; e++)
	{
		Entry	   *entry = &m->entries[e];

		entry->weight *= log(1.0 + (double) m->nrows /
							 m->frequency[entry->term]);
		square += entry->weight * entry->weight;
	}
	for (int e = m->first[row]; e < m->first[row + 1]; e++)
		m->entries[e].weight /= sqrt(square);
}

/* Reads the sentences into vectors. */
static Matrix *
read_matrix(const Sentence *sentences, int n, LexemeReader *words)
{
	Matrix	   *m = palloc0(sizeof(Matrix));
	termtable_hash *terms = termtable_create(CurrentMemoryContext, 1024, NULL);

	m->nrows = n;
	m->first = palloc((n + 1) * sizeof(int));
	m->maxentries = m->maxterms = 1024;
	m->entries = palloc(m->maxentries * sizeof(Entry));
	m->frequency = palloc(m->maxterms * sizeof(int));
	for (int row = 0; row < n; row++)
	{
		CHECK_FOR_INTERRUPTS();
		m->first[row] = m->nentries;
		lexeme_read(words, sentences[row].text, sentences[row].len);
		for (int i = 0; i < words->n; i++)
			count_lexeme(m, terms, row, words->lexemes[i]);
	}
	m->first[n] = m->nentries;
	for (int row = 0; row < n; row++)
		weigh_row(m, row);
	return m;
}

/* Returns the product of a row with a vector of all terms. */
static double
product(const Matrix *m, int row, const float *vector)
{
	double		sum = 0;

	CHECK_FOR_INTERRUPTS();
	for (int e = m->first[row]; e < m->first[row + 1]; e++)
		sum += m->entries[e].weight * vector[m->entries[e].term];
	return sum;
}

/* Adds a row to a vector of all terms. */
static void
add_row(const Matrix *m, int row, float *vector)
{
	for (int e = m->first[row]; e < m->first[row + 1]; e++)
		vector[m->entries[e].term] += m->entries[e].weight;
}

/* ---- ranking ---- */

/* Returns the degree centrality of each row, with 1 for the most central. */
static double *
centrality(const Matrix *m)
{
	float	   *sum = palloc0((m->nterms + 1) * sizeof(float));
	double	   *central = palloc(m->nrows * sizeof(double));
	double		best = 0;

	for (int row = 0; row < m->nrows; row++)
		add_row(m, row, sum);
	for (int row = 0; row < m->nrows; row++)
	{
		/* without the cosine with itself, which is 1 unless there are none */
		central[row] = Max(product(m, row, sum) - 1.0, 0.0);
		best = Max(best, central[row]);
	}
	for (int row = 0; row < m->nrows; row++)
		central[row] = best > TIE ? central[row] / best : 0.0;
	return central;
}

/* Returns how good each sentence is by itself. */
static double *
score_rows(const Matrix *m, const Sentence *sentences)
{
	double	   *scores = centrality(m);
	bool		first = true;

	for (int row = 0; row < m->nrows; row++)
	{
		int			nwords = m->first[row + 1] - m->first[row];

		scores[row] += BASE_SCORE;
		scores[row] *= nwords / (nwords + SHORT_SENTENCE);
		if (!sentences[row].complete)
			scores[row] *= HEADING_MALUS;
		else if (first)
		{
			scores[row] *= FIRST_SENTENCE_BONUS;
			first = false;
		}
	}
	return scores;
}

/* Returns the best row that is not out, the first one of several; or -1. */
static int
best_row(const double *scores, const bool *out, int n)
{
	int			best = -1;

	for (int row = 0; row < n; row++)
	{
		if (!out[row] && (best < 0 || scores[row] > scores[best] + TIE))
			best = row;
	}
	return best;
}

/* Puts a row out, and all that say the same. `vector` is zero, and stays so. */
static void
put_out(const Matrix *m, int picked, float *vector, bool *out)
{
	add_row(m, picked, vector);
	for (int row = 0; row < m->nrows; row++)
		out[row] |= row == picked || product(m, row, vector) >= SAME;
	for (int e = m->first[picked]; e < m->first[picked + 1]; e++)
		vector[m->entries[e].term] = 0;
}

/* Picks at most k rows; returns which. */
static bool *
pick_rows(const Matrix *m, const double *scores, int k)
{
	bool	   *picked = palloc0(m->nrows * sizeof(bool));
	bool	   *out = palloc0(m->nrows * sizeof(bool));
	float	   *vector = palloc0((m->nterms + 1) * sizeof(float));

	while (k-- > 0)
	{
		int			best = best_row(scores, out, m->nrows);

		if (best < 0)
			break;
		picked[best] = true;
		put_out(m, best, vector, out);
	}
	return picked;
}

/* Picks sentences; see the header. */
bool *
rank_pick(const Sentence *sentences, int n, LexemeReader *words, int k)
{
	Matrix	   *m = read_matrix(sentences, n, words);

	return pick_rows(m, score_rows(m, sentences), k);
}
