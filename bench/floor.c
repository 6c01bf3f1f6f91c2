//go:build ignore

// floor fork|epoll SOCKET PROGRAM is the least that can stand in onewake's
// place: it answers each HTTP/1.1 request on a Unix socket with what PROGRAM
// writes, and does nothing that this does not need. Of a request it looks only
// for the blank line and for "Connection: close". There is no second process, no sandbox, no variable, no
// time limit and no limit of any kind; the command gets /dev/null, a pipe for
// its output and one for its errors, as from onewake.
//
//	fork    a process for each connection, and calls that wait
//	epoll   one thread for everything
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HEAD = 128, OUTPUT = 64 << 10 };

// conn is a connection, and the command of its request while there is one.
struct conn {
	int fd, out, errs; // out is -1 between two requests
	int last;
	pid_t pid;
	size_t in, len;
	char request[16 << 10], answer[HEAD + OUTPUT];
};

static char *program;
static int null;

static void
start(struct conn *c)
{
	char *argv[] = { program, NULL }, *envp[] = { NULL };
	posix_spawn_file_actions_t fa;
	int out[2], errs[2], e;

	if (pipe2(out, O_CLOEXEC) == -1 || pipe2(errs, O_CLOEXEC) == -1)
		err(1, "pipe2");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, null, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&fa, out[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&fa, errs[1], STDERR_FILENO);
	if ((e = posix_spawn(&c->pid, program, &fa, NULL, argv, envp)) != 0)
		errx(1, "%s: %s", program, strerror(e));
	posix_spawn_file_actions_destroy(&fa);
	close(out[1]);
	close(errs[1]);
	c->out = out[0];
	c->errs = errs[0];
	c->len = 0;
}

// finish is for a command whose output has ended. It returns -1 if the
// connection is to be closed.
static int
finish(struct conn *c)
{
	char head[HEAD], rest[4096], *answer;
	int status, n;

	close(c->out);
	c->out = -1;
	if (waitpid(c->pid, &status, 0) == -1 || status != 0)
		errx(1, "%s: status %d", program, status);
	while (read(c->errs, rest, sizeof rest) > 0)
		;
	close(c->errs);
	n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", c->len);
	answer = c->answer + HEAD - n;
	memcpy(answer, head, n);
	n += c->len;
	return send(c->fd, answer, n, MSG_NOSIGNAL) == n && !c->last ? 0 : -1;
}

// request reads from the client: 1 for a whole head, -1 at the end.
static int
request(struct conn *c)
{
	ssize_t n = read(c->fd, c->request + c->in, sizeof c->request - c->in);

	if (n <= 0)
		return -1;
	c->in += n;
	if (c->in < 4 || memcmp(c->request + c->in - 4, "\r\n\r\n", 4) != 0)
		return 0;
	c->last = memmem(c->request, c->in, "Connection: close", 17) != NULL;
	c->in = 0;
	return 1;
}

// output reads from the command: 0 when it has ended.
static ssize_t
output(struct conn *c)
{
	ssize_t n = read(c->out, c->answer + HEAD + c->len, OUTPUT - c->len);

	if (n > 0)
		c->len += n;
	return n;
}

static void
connection(int fd)
{
	struct conn *c = calloc(1, sizeof *c);
	int more;

	c->fd = fd;
	while ((more = request(c)) >= 0) {
		if (more == 0)
			continue;
		start(c);
		while (output(c) > 0)
			;
		if (finish(c) == -1)
			break;
	}
}

static void
watch(int ep, int op, int fd, struct conn *c)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };

	if (epoll_ctl(ep, op, fd, &ev) == -1)
		err(1, "epoll_ctl");
}

// event goes on with a connection: a client sends nothing while it waits for
// an answer, so what can be read is the command's while there is one.
static int
event(int ep, struct conn *c)
{
	int more;

	if (c->out == -1) {
		if ((more = request(c)) == 1) {
			start(c);
			watch(ep, EPOLL_CTL_ADD, c->out, c);
		}
		return more;
	}
	if (output(c) > 0)
		return 0;
	// A child that is just being started may hold a copy of the pipe, so that
	// closing it does not end the watch.
	epoll_ctl(ep, EPOLL_CTL_DEL, c->out, NULL);
	return finish(c);
}

static void
loop(int l)
{
	struct epoll_event events[64];
	int ep = epoll_create1(EPOLL_CLOEXEC), n;

	watch(ep, EPOLL_CTL_ADD, l, NULL);
	while ((n = epoll_wait(ep, events, 64, -1)) != -1) {
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;

			if (c == NULL) {
				c = calloc(1, sizeof *c);
				c->out = -1;
				if ((c->fd = accept4(l, NULL, NULL, SOCK_CLOEXEC)) == -1)
					err(1, "accept");
				watch(ep, EPOLL_CTL_ADD, c->fd, c);
			} else if (event(ep, c) == -1) {
				close(c->fd);
				free(c);
			}
		}
	}
	err(1, "epoll_wait");
}

int
main(int argc, char *argv[])
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int l, c;

	if (argc != 4 || strlen(argv[2]) >= sizeof a.sun_path)
		errx(64, "usage: floor fork|epoll SOCKET PROGRAM");
	program = argv[3];
	if ((null = open("/dev/null", O_RDONLY | O_CLOEXEC)) == -1)
		err(1, "/dev/null");
	strcpy(a.sun_path, argv[2]);
	l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l == -1 || bind(l, (struct sockaddr *)&a, sizeof a) == -1 || listen(l, 512) == -1)
		err(1, "%s", argv[2]);
	if (strcmp(argv[1], "epoll") == 0)
		loop(l);
	signal(SIGCHLD, SIG_IGN);
	while ((c = accept4(l, NULL, NULL, SOCK_CLOEXEC)) != -1) {
		if (fork() == 0) {
			signal(SIGCHLD, SIG_DFL);
			connection(c);
			_exit(0);
		}
		close(c);
	}
	err(1, "accept");
}
