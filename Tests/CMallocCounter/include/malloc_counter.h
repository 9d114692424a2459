// Counts heap allocations per thread, so that tests can hold "nothing is allocated in a decode step".
#ifndef MALLOC_COUNTER_H
#define MALLOC_COUNTER_H

// Allocations that the calling thread has made so far, or -1 where they cannot be counted.
long malloc_counter_current(void);

#endif
