/* The name of a thread, as Rust's standard library sets it: always its own. musl's function can name other threads, too,
   by a path that it makes with snprintf, which takes 13 KB and is called from nowhere else. */

#include <errno.h>
#include <pthread.h>
#include <sys/prctl.h>

int pthread_setname_np(pthread_t thread, const char *name)
{
	if (thread != pthread_self())
		return EINVAL;
	return prctl(PR_SET_NAME, name, 0UL, 0UL, 0UL) ? errno : 0;
}
