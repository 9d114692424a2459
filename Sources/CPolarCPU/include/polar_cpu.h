void polar_cpu_placeholder(void);
