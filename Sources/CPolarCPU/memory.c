// Memory for weights, caches and scratch.
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "polar_cpu.h"

static const size_t huge_page = (size_t)2 << 20;

// Large blocks get whole huge pages; smaller ones come from malloc.
static int is_large(size_t bytes) { return bytes >= huge_page; }

static size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

void *polar_memory_allocate(size_t bytes) {
  if (bytes > SIZE_MAX / 2) return NULL;
  if (!is_large(bytes)) {
    const size_t size = round_up(bytes ? bytes : 1, 64);
    void *memory = aligned_alloc(64, size);
    if (memory) memset(memory, 0, size);
    return memory;
  }
  const size_t size = round_up(bytes, huge_page);
  char *raw = mmap(NULL, size + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return NULL;
  char *memory = (char *)round_up((size_t)raw, huge_page);
  if (memory > raw) munmap(raw, (size_t)(memory - raw));
  const size_t rest = (size_t)(raw + huge_page - memory);
  if (rest > 0) munmap(memory + size, rest);
#if defined(MADV_HUGEPAGE)
  madvise(memory, size, MADV_HUGEPAGE);
#endif
  return memory;
}

void polar_memory_free(void *memory, size_t bytes) {
  if (!memory) return;
  if (is_large(bytes)) {
    munmap(memory, round_up(bytes, huge_page));
  } else {
    free(memory);
  }
}
