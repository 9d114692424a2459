// Internal: what the parts of attention share. attention.c says who computes what, attention_rows.c computes it.
#ifndef POLAR_ATTENTION_H
#define POLAR_ATTENTION_H

#include <stdatomic.h>
#include "context.h"

typedef struct {
  polar_context *context;
  const polar_attention_args *args;
  int32_t group_heads;  // query heads per KV head
  int32_t tasks;        // decode: tasks of the round; prefill: token groups
  atomic_int_fast64_t next;
} attention_job;

// Rows that a thread has gathered for one KV head: sources and targets are set, starts and limits are visible tokens.
typedef struct {
  int rows;
  int32_t group;
  int32_t first, pages;  // first page that a row sees, and the page behind the last
  const int32_t *table;
  polar_fetch *fetch;    // what is read and written after the set, or NULL
} row_set;

static inline int32_t pages_for(int32_t tokens) { return (tokens + POLAR_PAGE - 1) / POLAR_PAGE; }

static inline const char *head_blocks(const polar_kv *kv, int32_t group) {
  return (const char *)kv->blocks + group * kv->pages * polar_kv_block_bytes(kv->type, kv->head_dim);
}

// Writes the queries of the first `rows` sources of the scratch as the kernels want them.
void polar_prepare_queries(const attention_job *job, polar_scratch *scratch, int rows);
// Runs the kernel on chunk `chunk` of `set`; partials land in the scratch's m, l and o. `next`: blocks that are read behind
// the set, or NULL.
void polar_run_chunk(
  const attention_job *job, polar_scratch *scratch, const row_set *set, int32_t chunk, const char *const *next);
// All chunks of `set`, folded and written out.
void polar_run_full(const attention_job *job, polar_scratch *scratch, const row_set *set, const char *const *next);
// The local pages of `set`, whose rows all have their last token in the same page.
void polar_run_local(const attention_job *job, polar_scratch *scratch, const row_set *set, const char *const *next);

#endif
