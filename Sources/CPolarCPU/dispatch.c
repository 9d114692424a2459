#include "polar_cpu.h"
void polar_cpu_placeholder(void) {}
