// How many threads this process can run at once: its affinity, and the CPU limits of its control groups.
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "polar_cpu.h"

enum { PATH_BYTES = 4096 };

// The first line of a file, without its end; 0 on failure.
static int read_line(const char *path, char *line, size_t bytes) {
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  const int read = fgets(line, (int)bytes, file) != NULL;
  fclose(file);
  if (read) line[strcspn(line, "\n")] = 0;
  return read;
}

// Processors of a quota per period, both in microseconds, rounded up; 0 for none.
static int64_t processors(int64_t quota, int64_t period) {
  if (quota <= 0 || period <= 0) return 0;
  return quota / period + (quota % period != 0);
}

// The limit of one control group, whose folder is `folder`; 0 for none.
static int64_t group_limit(const char *folder, int version) {
  char path[PATH_BYTES + 32], line[64];
  if (version == 2) {
    // "max 100000" or "150000 100000"
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (!read_line(path, line, sizeof line)) return 0;
    char *rest = NULL;
    const int64_t quota = strtoll(line, &rest, 10);
    return rest == line ? 0 : processors(quota, strtoll(rest, NULL, 10));
  }
  snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
  if (!read_line(path, line, sizeof line)) return 0;
  const int64_t quota = strtoll(line, NULL, 10);
  snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
  return read_line(path, line, sizeof line) ? processors(quota, strtoll(line, NULL, 10)) : 0;
}

// The least limit of the group `group` of the hierarchy at `mount` and of all groups above it; 0 for none.
static int64_t hierarchy_limit(const char *mount, const char *group, int version) {
  char path[PATH_BYTES];
  if (snprintf(path, sizeof path, "%s%s", mount, group) >= (int)sizeof path) return 0;
  int64_t least = 0;
  for (;;) {
    const int64_t limit = group_limit(path, version);
    if (limit > 0 && (least == 0 || limit < least)) least = limit;
    char *slash = strrchr(path, '/');
    if (!slash || (size_t)(slash - path) < strlen(mount)) return least;
    *slash = 0;
  }
}

int polar_cgroup_processors(const char *membership, const char *mount) {
  FILE *file = fopen(membership, "re");
  if (!file) return 0;
  char line[PATH_BYTES];
  int64_t least = 0;
  // Lines "hierarchy:controllers:group"; version 2 has hierarchy 0 and no controllers.
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) continue;
    *controllers++ = 0;
    *group++ = 0;
    // A container may see itself as the root, or see a path that its mount does not have.
    if (strcmp(group, "/") == 0) *group = 0;
    char path[PATH_BYTES];
    int64_t limits[2] = {0, 0};
    if (strcmp(line, "0") == 0 && *controllers == 0) {
      limits[0] = hierarchy_limit(mount, group, 2);
    } else {
      int has_cpu = 0;
      char list[PATH_BYTES], *state = NULL;
      snprintf(list, sizeof list, "%s", controllers);
      for (char *name = strtok_r(list, ",", &state); name; name = strtok_r(NULL, ",", &state))
        has_cpu |= strcmp(name, "cpu") == 0;
      if (!has_cpu) continue;
      // The folder has the name of the controllers that share it, or "cpu".
      if (snprintf(path, sizeof path, "%s/%s", mount, controllers) < (int)sizeof path)
        limits[0] = hierarchy_limit(path, group, 1);
      if (snprintf(path, sizeof path, "%s/cpu", mount) < (int)sizeof path)
        limits[1] = hierarchy_limit(path, group, 1);
    }
    for (int i = 0; i < 2; i++)
      if (limits[i] > 0 && (least == 0 || limits[i] < least)) least = limits[i];
  }
  fclose(file);
  return least > 4096 ? 4096 : (int)least;
}

int polar_online_processors(void) {
  long count = 0;
#if defined(__linux__)
  // Machines may have more processors than the fixed set has bits.
  for (int bits = CPU_SETSIZE; bits <= 1 << 16 && count == 0; bits *= 4) {
    cpu_set_t *set = CPU_ALLOC(bits);
    if (!set) break;
    const size_t bytes = CPU_ALLOC_SIZE(bits);
    if (sched_getaffinity(0, bytes, set) == 0) count = CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
  }
  const int limit = polar_cgroup_processors("/proc/self/cgroup", "/sys/fs/cgroup");
#else
  const int limit = 0;
#endif
  if (count <= 0) count = sysconf(_SC_NPROCESSORS_ONLN);
  if (limit > 0 && limit < count) count = limit;
  return count < 1 ? 1 : count > 1024 ? 1024 : (int)count;
}
