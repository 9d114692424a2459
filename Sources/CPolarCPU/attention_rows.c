// Paged attention: what a thread computes for some rows over one KV head.
#include <string.h>
#include "attention.h"

// The scale of scores in powers of two.
static float base2_scale(const polar_attention_args *args) { return args->scale * 1.44269504088896340736f; }

void polar_prepare_queries(const attention_job *job, polar_scratch *scratch, int rows) {
  const polar_queries queries = {
    .source = scratch->source,
    .type = job->args->kv.type,
    .head_dim = job->args->kv.head_dim,
    .rows = rows,
    .scale = base2_scale(job->args),
    .q = scratch->q,
    .scratch = scratch->bf16,
  };
  job->context->kernels->queries(&queries);
}

void polar_run_chunk(
  const attention_job *job, polar_scratch *scratch, const row_set *set, int32_t chunk, const char *const *next
) {
  const polar_kv *kv = &job->args->kv;
  const int32_t first = chunk * POLAR_CHUNK_PAGES;
  const int32_t left = set->pages - first;
  const int64_t block_bytes = polar_kv_block_bytes(kv->type, kv->head_dim);
  polar_span span = {
    .blocks = head_blocks(kv, set->group),
    .block_bytes = block_bytes,
    .type = kv->type,
    .table = set->table + first,
    .pages = left < POLAR_CHUNK_PAGES ? left : POLAR_CHUNK_PAGES,
    .skip_at = POLAR_CHUNK_PAGES,
    .first = set->first > first ? set->first - first : 0,
    .head_dim = kv->head_dim,
    .rows = set->rows,
    .scale = base2_scale(job->args),
    .q = scratch->q,
    .starts = scratch->span_starts,
    .limits = scratch->span_limits,
    .m = scratch->m,
    .l = scratch->l,
    .o = scratch->o,
    .scratch = scratch->bf16,
    .tile = scratch->tile,
  };
  // Fetched earlier it would be gone again before it is used.
  if (set->fetch && left <= POLAR_CHUNK_PAGES) {
    const int32_t steps = (left + POLAR_TILE_PAGES - 1) / POLAR_TILE_PAGES;
    set->fetch->step = (set->fetch->rows * set->fetch->lines + steps - 1) / steps;
    span.fetch = set->fetch;
  }
  for (int i = 0; i < POLAR_NEXT_PAGES; i++) {
    const int32_t page = first + POLAR_CHUNK_PAGES + i;
    span.next[i] = page < set->pages ? span.blocks + set->table[page] * block_bytes : next ? next[i] : NULL;
  }
  for (int r = 0; r < set->rows; r++) {
    scratch->span_starts[r] = scratch->starts[r] - first * POLAR_PAGE;
    scratch->span_limits[r] = scratch->limits[r] - first * POLAR_PAGE;
  }
  job->context->kernels->attention(&span);
}

void polar_run_full(const attention_job *job, polar_scratch *scratch, const row_set *set, const char *const *next) {
  const int32_t head_dim = job->args->kv.head_dim, tokens = POLAR_CHUNK_PAGES * POLAR_PAGE;
  const polar_kernels *kernels = job->context->kernels;
  polar_prepare_queries(job, scratch, set->rows);
  for (int32_t chunk = set->first / POLAR_CHUNK_PAGES; chunk * POLAR_CHUNK_PAGES < set->pages; chunk++) {
    polar_run_chunk(job, scratch, set, chunk, next);
    for (int r = 0; r < set->rows; r++) {
      const int32_t first = scratch->starts[r] / tokens, last = (scratch->limits[r] - 1) / tokens;
      if (chunk < first || chunk > last) continue;
      const float *o = scratch->o + r * head_dim;
      if (first == last) {
        kernels->finish(scratch->target[r], o, scratch->l[r], head_dim);
        continue;
      }
      polar_partial total = {&scratch->total_m[r], &scratch->total_l[r], scratch->total + r * head_dim};
      kernels->fold(chunk == first, &total, scratch->m[r], scratch->l[r], o, head_dim);
      if (chunk == last) kernels->finish(scratch->target[r], total.o, *total.l, head_dim);
    }
  }
}

void polar_run_local(const attention_job *job, polar_scratch *scratch, const row_set *set, const char *const *next) {
  const polar_attention_args *args = job->args;
  const int32_t head_dim = args->kv.head_dim, pages = args->sink_pages + args->recent_pages;
  polar_prepare_queries(job, scratch, set->rows);
  polar_span span = {
    .blocks = head_blocks(&args->kv, set->group),
    .block_bytes = polar_kv_block_bytes(args->kv.type, head_dim),
    .type = args->kv.type,
    .table = set->table,
    .pages = pages,
    .skip_at = args->sink_pages,
    .skip = set->pages - pages,
    .head_dim = head_dim,
    .rows = set->rows,
    .scale = base2_scale(job->args),
    .q = scratch->q,
    .starts = scratch->span_starts,
    .limits = scratch->span_limits,
    .m = scratch->m,
    .l = scratch->l,
    .o = scratch->o,
    .scratch = scratch->bf16,
    .tile = scratch->tile,
  };
  if (next) memcpy(span.next, next, sizeof span.next);
  if (set->fetch) {
    set->fetch->step = set->fetch->rows * set->fetch->lines;
    span.fetch = set->fetch;
  }
  const int32_t sink_tokens = args->sink_pages * POLAR_PAGE, gap = span.skip * POLAR_PAGE;
  span.first = pages;
  for (int r = 0; r < set->rows; r++) {
    // Without recent pages every sink page is a whole one.
    scratch->span_limits[r] = args->recent_pages > 0 ? scratch->limits[r] - gap : pages * POLAR_PAGE;
    // A window that starts between the sinks and the recent pages starts with the latter.
    const int32_t start = scratch->starts[r], moved = start - gap;
    scratch->span_starts[r] = start < sink_tokens ? start : moved > sink_tokens ? moved : sink_tokens;
    if (scratch->span_starts[r] / POLAR_PAGE < span.first) span.first = scratch->span_starts[r] / POLAR_PAGE;
  }
  if (span.first < pages) {
    job->context->kernels->attention(&span);
  } else {
    memset(scratch->l, 0, sizeof(float) * (size_t)set->rows);
  }
  for (int r = 0; r < set->rows; r++)
    job->context->kernels->finish(scratch->target[r], scratch->o + r * head_dim, scratch->l[r], head_dim);
}
