//go:build ignore

// limit SECONDS LOOPS PROGRAM [ARGUMENT ...] starts PROGRAM as fast as the system allows:
// posix_spawn with its output in a pipe, read to the end, reap, again. LOOPS
// processes do so at once. It prints
//
//	processes seconds own-cpu-seconds children-cpu-seconds
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct sum {
	double n, own, children;
};

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static double
cpu(int who)
{
	struct rusage ru;

	getrusage(who, &ru);
	return ru.ru_utime.tv_sec + ru.ru_stime.tv_sec +
	    (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}

static void
once(char **argv)
{
	char *envp[] = { NULL }, buf[4096];
	posix_spawn_file_actions_t fa;
	int end[2], status, e;
	ssize_t n;
	pid_t pid;

	if (pipe2(end, O_CLOEXEC) == -1)
		err(1, "pipe2");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, end[1], STDOUT_FILENO);
	if ((e = posix_spawn(&pid, argv[0], &fa, NULL, argv, envp)) != 0)
		errx(1, "%s: %s", argv[0], strerror(e));
	posix_spawn_file_actions_destroy(&fa);
	close(end[1]);
	while ((n = read(end[0], buf, sizeof buf)) > 0)
		;
	close(end[0]);
	if (waitpid(pid, &status, 0) == -1 || status != 0)
		errx(1, "%s: status %d", argv[0], status);
}

int
main(int argc, char *argv[])
{
	struct sum all = { 0 }, one;
	double seconds, began;
	int loops, end[2];

	if (argc < 4)
		errx(64, "usage: limit SECONDS LOOPS PROGRAM [ARGUMENT ...]");
	seconds = atof(argv[1]);
	loops = atoi(argv[2]);
	if (pipe(end) == -1)
		err(1, "pipe");
	began = now();
	for (int i = 0; i < loops; i++) {
		pid_t pid = fork();

		if (pid == -1)
			err(1, "fork");
		if (pid != 0)
			continue;
		one = (struct sum){ 0 };
		for (; now() - began < seconds; one.n++)
			once(argv + 3);
		one.own = cpu(RUSAGE_SELF);
		one.children = cpu(RUSAGE_CHILDREN);
		_exit(write(end[1], &one, sizeof one) != sizeof one);
	}
	close(end[1]);
	for (int i = 0; i < loops; i++) {
		if (read(end[0], &one, sizeof one) != sizeof one)
			errx(1, "a loop failed");
		all.n += one.n;
		all.own += one.own;
		all.children += one.children;
	}
	printf("%.0f %.6f %.6f %.6f\n", all.n, now() - began, all.own, all.children);
	return 0;
}
