// Memory for weights, caches and scratch.
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <stdio.h>
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

#if defined(__linux__)
// The number in a one-line file; 0 when there is none ("max", no such file).
static uint64_t read_number(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  unsigned long long value = 0;
  const int found = fscanf(file, "%llu", &value);
  fclose(file);
  return found == 1 ? value : 0;
}

static uint64_t system_available(void) {
  FILE *file = fopen("/proc/meminfo", "r");
  if (!file) return 0;
  char line[128];
  unsigned long long kilobytes = 0;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1) break;
  fclose(file);
  return kilobytes * 1024;
}
#endif

uint64_t polar_memory_available(void) {
#if defined(__linux__)
  uint64_t available = system_available();
  static const char *const groups[][2] = {
    {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
    {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"},
  };
  for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
    const uint64_t limit = read_number(groups[i][0]);
    if (limit == 0) continue;
    const uint64_t used = read_number(groups[i][1]);
    const uint64_t left = limit > used ? limit - used : 0;
    if (available == 0 || left < available) available = left;
  }
  return available;
#else
  return 0;
#endif
}
