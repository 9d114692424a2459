// Paged attention: what is computed by which thread.
//
// A row's context is cut into chunks of 32 pages at absolute positions. A kernel makes each chunk's partial (maximum,
// sum, weighted values); partials are folded one after the other in the order of the chunks, by one function. So the
// result does not depend on the thread count, the batch, or on being computed in a decode or a prefill step.
#include <stdlib.h>
#include <string.h>
#include "attention.h"

enum {
  TASKS = 16384,              // tasks planned at once; a larger step runs in several rounds
  PARTIAL_ELEMENTS = 262144,  // floats per thread for the partials of a task that several threads share
};

typedef enum { TASK_FULL, TASK_LOCAL, TASK_FILL } task_kind;

typedef struct {
  int32_t row, group;
  int32_t kind;
  int32_t first_chunk, chunks;  // 0 and 1 unless full
  int64_t cost_before;  // of all earlier tasks of the round
} decode_task;

// A place between two chunks of the list of tasks; chunks count from the task's first.
typedef struct {
  int32_t task, chunk;
} boundary;

typedef struct {
  int32_t row, count, sequence;
} token_group;

struct polar_plan {
  decode_task tasks[TASKS];
  token_group groups[TASKS];
  boundary *bounds;  // [threads + 1]
  int *slots;        // [threads]: which partial buffer the task cut by a thread's lower bound uses
  float *partials;   // [threads][PARTIAL_ELEMENTS]
};

polar_plan *polar_plan_create(int threads) {
  polar_plan *plan = calloc(1, sizeof *plan);
  if (!plan) return NULL;
  plan->bounds = calloc((size_t)threads + 1, sizeof *plan->bounds);
  plan->slots = calloc((size_t)threads, sizeof *plan->slots);
  plan->partials = polar_memory_allocate((size_t)threads * PARTIAL_ELEMENTS * sizeof(float));
  if (!plan->bounds || !plan->slots || !plan->partials) {
    polar_plan_destroy(plan, threads);
    return NULL;
  }
  return plan;
}

void polar_plan_destroy(polar_plan *plan, int threads) {
  if (!plan) return;
  free(plan->bounds);
  free(plan->slots);
  polar_memory_free(plan->partials, (size_t)threads * PARTIAL_ELEMENTS * sizeof(float));
  free(plan);
}

// The first token that a row at `position` sees.
static int32_t window_start(const polar_attention_args *args, int32_t position) {
  return args->window > 0 && position >= args->window ? position + 1 - args->window : 0;
}

// Most query rows that one kernel call takes.
static int span_rows(int32_t head_dim) {
  const int rows = (int)(POLAR_SPAN_ELEMENTS / polar_kv_padded(head_dim));
  return rows < 1 ? 1 : rows > POLAR_SPAN_ROWS ? POLAR_SPAN_ROWS : rows;
}

// True when the local pages are all `pages`.
static int local_covers(const polar_attention_args *args, int32_t pages) {
  return args->sink_pages + args->recent_pages >= pages;
}

// MARK: Decode

// Whether a head's row belongs to a task of this kind. Where the local pages are all pages, every head is full.
static int takes_head(const polar_attention_args *args, const decode_task *task, int32_t pages, int32_t head) {
  if (!args->mask) return task->kind == TASK_FULL;
  if (args->fallback == POLAR_FALLBACK_LOCAL && local_covers(args, pages)) return task->kind == TASK_FULL;
  return (args->mask[task->row * args->mask_stride + head] != 0) == (task->kind == TASK_FULL);
}

// Gathers up to `most` heads of a task's group from head `*head` of the group on.
static int gather_heads(
  const attention_job *job, polar_scratch *scratch, const decode_task *task, int32_t pages, int32_t *head, int most
) {
  const polar_attention_args *args = job->args;
  const int32_t tokens = args->positions[task->row] + 1;
  int rows = 0;
  for (; *head < job->group_heads && rows < most; (*head)++) {
    const int32_t h = task->group * job->group_heads + *head;
    if (!takes_head(args, task, pages, h)) continue;
    scratch->source[rows] = args->query + task->row * args->query_stride + h * args->kv.head_dim;
    scratch->target[rows] = args->out + task->row * args->out_stride + h * args->kv.head_dim;
    scratch->starts[rows] = window_start(args, tokens - 1);
    scratch->limits[rows] = tokens;
    rows++;
  }
  return rows;
}

static void run_fill(const attention_job *job, const decode_task *task) {
  const polar_attention_args *args = job->args;
  const int32_t head_dim = args->kv.head_dim;
  for (int32_t i = 0; i < job->group_heads; i++) {
    const int32_t h = task->group * job->group_heads + i;
    if (args->mask[task->row * args->mask_stride + h]) continue;
    float *out = args->out + task->row * args->out_stride + h * head_dim;
    if (args->fallback == POLAR_FALLBACK_CONSTANT) {
      const float *constant = args->constant + task->row * args->constant_row_stride + h * args->constant_stride;
      memcpy(out, constant, sizeof(float) * (size_t)head_dim);
    } else {
      memset(out, 0, sizeof(float) * (size_t)head_dim);
    }
  }
}

// The first blocks that a task reads, for prefetching.
static void first_blocks(const attention_job *job, const decode_task *task, const char **next) {
  const polar_attention_args *args = job->args;
  const int32_t *table = args->tables + args->sequences[task->row] * args->table_stride;
  const int32_t position = args->positions[task->row], pages = pages_for(position + 1);
  const int64_t block_bytes = polar_kv_block_bytes(args->kv.type, args->kv.head_dim);
  const int32_t first = window_start(args, position) / POLAR_PAGE;
  for (int32_t i = 0; i < POLAR_NEXT_PAGES; i++)
    next[i] = first + i < pages ? head_blocks(&args->kv, task->group) + table[first + i] * block_bytes : NULL;
}

// The partials of one row of a task's chunk: maximum, sum, values.
static float *partial_of(float *slot, int32_t rows, int32_t chunk, int32_t row, int32_t head_dim) {
  return slot + ((int64_t)chunk * rows + row) * (head_dim + 2);
}

static int selected_rows(const attention_job *job, const decode_task *task, int32_t pages) {
  int rows = 0;
  for (int32_t i = 0; i < job->group_heads; i++)
    rows += takes_head(job->args, task, pages, task->group * job->group_heads + i);
  return rows;
}

// Chunks [low, high) of a full task that other threads share; partials go to `slot`.
static void run_part(
  const attention_job *job, polar_scratch *scratch, const decode_task *task, row_set *set, int32_t low, int32_t high,
  float *slot
) {
  const int32_t head_dim = job->args->kv.head_dim;
  const int32_t total = selected_rows(job, task, set->pages);
  int32_t head = 0, done = 0;
  while ((set->rows = gather_heads(job, scratch, task, set->pages, &head, span_rows(head_dim))) > 0) {
    polar_prepare_queries(job, scratch, set->rows);
    for (int32_t chunk = low; chunk < high; chunk++) {
      polar_run_chunk(job, scratch, set, task->first_chunk + chunk, NULL);
      for (int r = 0; r < set->rows; r++) {
        float *partial = partial_of(slot, total, chunk, done + r, head_dim);
        partial[0] = scratch->m[r];
        partial[1] = scratch->l[r];
        memcpy(partial + 2, scratch->o + r * head_dim, sizeof(float) * (size_t)head_dim);
      }
    }
    done += set->rows;
  }
}

static void combine_parts(const attention_job *job, const decode_task *task, const float *slot) {
  const int32_t head_dim = job->args->kv.head_dim;
  const int32_t pages = pages_for(job->args->positions[task->row] + 1);
  const polar_kernels *kernels = job->context->kernels;
  polar_scratch *scratch = &job->context->scratch[0];
  const int32_t selected = selected_rows(job, task, pages);
  int32_t head = 0, done = 0, rows;
  while ((rows = gather_heads(job, scratch, task, pages, &head, span_rows(head_dim))) > 0) {
    for (int32_t r = 0; r < rows; r++) {
      polar_partial total = {scratch->total_m, scratch->total_l, scratch->total};
      for (int32_t chunk = 0; chunk < task->chunks; chunk++) {
        const float *partial = partial_of((float *)slot, selected, chunk, done + r, head_dim);
        kernels->fold(chunk == 0, &total, partial[0], partial[1], partial + 2, head_dim);
      }
      kernels->finish(scratch->target[r], scratch->total, *total.l, head_dim);
    }
    done += rows;
  }
}

static void run_decode(void *argument, int thread, int threads) {
  (void)threads;
  attention_job *job = argument;
  const polar_attention_args *args = job->args;
  const polar_plan *plan = job->context->plan;
  polar_scratch *scratch = &job->context->scratch[thread];
  const boundary low = plan->bounds[thread], high = plan->bounds[thread + 1];
  for (int32_t index = low.task; index < high.task || (index == high.task && high.chunk > 0); index++) {
    const decode_task *task = &plan->tasks[index];
    if (task->kind == TASK_FILL) {
      run_fill(job, task);
      continue;
    }
    row_set set = {
      .group = task->group,
      .first = window_start(args, args->positions[task->row]) / POLAR_PAGE,
      .pages = pages_for(args->positions[task->row] + 1),
      .table = args->tables + args->sequences[task->row] * args->table_stride,
    };
    const int32_t first = index == low.task ? low.chunk : 0;
    const int32_t last = index == high.task ? high.chunk : task->chunks;
    if (first > 0 || last < task->chunks) {
      const int slot = first > 0 ? plan->slots[thread] : plan->slots[thread + 1];
      run_part(job, scratch, task, &set, first, last, plan->partials + (int64_t)slot * PARTIAL_ELEMENTS);
      continue;
    }
    const char *next[POLAR_NEXT_PAGES] = {NULL};
    if (index + 1 < job->tasks && plan->tasks[index + 1].kind != TASK_FILL)
      first_blocks(job, task + 1, next);
    int32_t head = 0;
    while ((set.rows = gather_heads(job, scratch, task, set.pages, &head, span_rows(args->kv.head_dim))) > 0) {
      if (task->kind == TASK_FULL) {
        polar_run_full(job, scratch, &set, next);
      } else {
        polar_run_local(job, scratch, &set, next);
      }
    }
  }
}

// Cuts the round's tasks into one run per thread of about equal cost, at chunk boundaries.
static void set_bounds(attention_job *job, int64_t cost) {
  polar_plan *plan = job->context->plan;
  const int threads = job->context->threads;
  const int32_t head_dim = job->args->kv.head_dim;
  plan->bounds[0] = (boundary){0, 0};
  plan->bounds[threads] = (boundary){job->tasks, 0};
  int32_t index = 0;
  for (int t = 1; t < threads; t++) {
    const int64_t target = cost * t / threads;
    while (index + 1 < job->tasks && plan->tasks[index + 1].cost_before <= target) index++;
    const decode_task *task = &plan->tasks[index];
    const int64_t end = index + 1 < job->tasks ? plan->tasks[index + 1].cost_before : cost;
    const int64_t width = end - task->cost_before;
    int64_t chunk = width > 0 ? ((target - task->cost_before) * task->chunks + width / 2) / width : 0;
    const int64_t rows = job->group_heads;
    if (task->chunks > 1 && (int64_t)task->chunks * rows * (head_dim + 2) > PARTIAL_ELEMENTS)
      chunk = 2 * chunk >= task->chunks ? task->chunks : 0;
    boundary bound = chunk >= task->chunks ? (boundary){index + 1, 0} : (boundary){index, (int32_t)chunk};
    const boundary before = plan->bounds[t - 1];
    if (bound.task < before.task || (bound.task == before.task && bound.chunk < before.chunk)) bound = before;
    plan->bounds[t] = bound;
    const int continues = before.chunk > 0 && before.task == bound.task;
    plan->slots[t] = continues ? plan->slots[t - 1] : t;
  }
}

static void run_round(attention_job *job, int64_t cost) {
  polar_plan *plan = job->context->plan;
  set_bounds(job, cost);
  polar_pool_run(job->context->pool, run_decode, job);
  for (int t = 1; t < job->context->threads; t++)
    if (plan->bounds[t].chunk > 0 && plan->slots[t] == t)
      combine_parts(
        job, &plan->tasks[plan->bounds[t].task], plan->partials + (int64_t)t * PARTIAL_ELEMENTS);
}

void polar_decode_attention(polar_context *context, const polar_attention_args *args) {
  const int32_t groups = args->kv.kv_heads;
  attention_job job = {.context = context, .args = args, .group_heads = args->heads / groups};
  polar_plan *plan = context->plan;
  pthread_mutex_lock(&context->lock);
  int64_t cost = 0;
  for (int64_t row = 0; row < args->rows; row++) {
    const int32_t pages = pages_for(args->positions[row] + 1);
    const int32_t first = window_start(args, args->positions[row]) / POLAR_PAGE;
    const int all = !args->mask || (args->fallback == POLAR_FALLBACK_LOCAL && local_covers(args, pages));
    for (int32_t group = 0; group < groups; group++) {
      int32_t selected = job.group_heads;
      if (!all) {
        const uint8_t *mask = args->mask + row * args->mask_stride + group * job.group_heads;
        selected = 0;
        for (int32_t i = 0; i < job.group_heads; i++) selected += mask[i] != 0;
      }
      if (job.tasks + 2 > TASKS) {
        run_round(&job, cost);
        job.tasks = 0;
        cost = 0;
      }
      decode_task task = {.row = (int32_t)row, .group = group, .chunks = 1};
      if (selected > 0) {
        task.kind = TASK_FULL;
        task.first_chunk = first / POLAR_CHUNK_PAGES;
        task.chunks = (pages + POLAR_CHUNK_PAGES - 1) / POLAR_CHUNK_PAGES - task.first_chunk;
        task.cost_before = cost;
        plan->tasks[job.tasks++] = task;
        // Reading a page costs about as much as computing it for two rows.
        cost += (int64_t)(pages - first) * (selected > 2 ? selected : 2) + 1;
      }
      if (selected < job.group_heads) {
        task.kind = args->fallback == POLAR_FALLBACK_LOCAL ? TASK_LOCAL : TASK_FILL;
        task.chunks = 1;
        task.cost_before = cost;
        plan->tasks[job.tasks++] = task;
        const int64_t others = job.group_heads - selected;
        cost += task.kind == TASK_FILL
          ? 1 : (args->sink_pages + args->recent_pages) * (others > 2 ? others : 2) + 1;
      }
    }
  }
  if (job.tasks > 0) run_round(&job, cost);
  pthread_mutex_unlock(&context->lock);
}

// MARK: Prefill

// The tokens of an item, one KV head after the other, whose pages then stay in cache; long contexts first.
static token_group item_tokens(const attention_job *job, int64_t item) {
  return job->context->plan->groups[job->tasks - 1 - item % job->tasks];
}

// What an item's rows read and write.
static polar_fetch item_memory(const attention_job *job, int64_t item) {
  const polar_attention_args *args = job->args;
  const token_group tokens = item_tokens(job, item);
  const int64_t width = (int64_t)job->group_heads * args->kv.head_dim, at = item / job->tasks * width;
  const int32_t lines = (int32_t)((width + 15) / 16);
  return (polar_fetch){
    .source = (const char *)(args->query + tokens.row * args->query_stride + at),
    .target = (const char *)(args->out + tokens.row * args->out_stride + at),
    .source_stride = args->query_stride * (int64_t)sizeof(float) - lines * 64,
    .target_stride = args->out_stride * (int64_t)sizeof(float) - lines * 64,
    .rows = tokens.count,
    .lines = lines,
  };
}

static void run_prefill(void *argument, int thread, int threads) {
  (void)threads;
  attention_job *job = argument;
  const polar_attention_args *args = job->args;
  polar_scratch *scratch = &job->context->scratch[thread];
  const int32_t head_dim = args->kv.head_dim;
  const int64_t items = (int64_t)job->tasks * args->kv.kv_heads;
  int64_t next = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
  while (next < items) {
    const int64_t item = next;
    next = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
    polar_fetch fetch;
    if (next < items) fetch = item_memory(job, next);
    const int32_t group = (int32_t)(item / job->tasks);
    const token_group tokens = item_tokens(job, item);
    row_set set = {
      .group = group,
      .first = window_start(args, args->positions[tokens.row]) / POLAR_PAGE,
      .pages = pages_for(args->positions[tokens.row + tokens.count - 1] + 1),
      .table = args->tables + tokens.sequence * args->table_stride,
    };
    const int local = args->fallback == POLAR_FALLBACK_LOCAL && !local_covers(args, set.pages);
    const int rows = tokens.count * job->group_heads, most = span_rows(head_dim);
    for (int start = 0; start < rows; start += most) {
      set.rows = rows - start < most ? rows - start : most;
      for (int r = 0; r < set.rows; r++) {
        const int32_t row = tokens.row + (start + r) / job->group_heads;
        const int32_t h = group * job->group_heads + (start + r) % job->group_heads;
        scratch->source[r] = args->query + row * args->query_stride + h * head_dim;
        scratch->target[r] = args->out + row * args->out_stride + h * head_dim;
        scratch->starts[r] = window_start(args, args->positions[row]);
        scratch->limits[r] = args->positions[row] + 1;
      }
      set.fetch = next < items && start + most >= rows ? &fetch : NULL;
      if (local) {
        polar_run_local(job, scratch, &set, NULL);
      } else {
        polar_run_full(job, scratch, &set, NULL);
      }
    }
  }
}

static void run_groups(attention_job *job) {
  atomic_store(&job->next, 0);
  polar_pool_run(job->context->pool, run_prefill, job);
  job->tasks = 0;
}

void polar_prefill_attention(polar_context *context, const polar_attention_args *args) {
  attention_job job = {.context = context, .args = args, .group_heads = args->heads / args->kv.kv_heads};
  polar_plan *plan = context->plan;
  // Fewer tokens per task when a group has many heads, so that one task's rows fit one kernel call.
  int32_t most = span_rows(args->kv.head_dim) / job.group_heads;
  if (most < 1) most = 1;
  const int local = args->fallback == POLAR_FALLBACK_LOCAL;
  pthread_mutex_lock(&context->lock);
  for (int64_t row = 0; row < args->rows;) {
    int64_t end = row + 1;
    while (end < args->rows && end - row < most && args->sequences[end] == args->sequences[row]) {
      // Tokens that share their local pages lie in one page.
      if (local && args->positions[end] / POLAR_PAGE != args->positions[row] / POLAR_PAGE) break;
      end++;
    }
    if (job.tasks == TASKS) run_groups(&job);
    plan->groups[job.tasks++] = (token_group){(int32_t)row, (int32_t)(end - row), args->sequences[row]};
    row = end;
  }
  if (job.tasks > 0) run_groups(&job);
  pthread_mutex_unlock(&context->lock);
}
