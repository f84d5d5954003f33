# Run a command as PID 1 of a file system of its own, as a container engine would: read-only, another user, no rights.
#   unshare --mount --pid --fork sh container.sh ROOT IMAGE DATA "SHARED…" USER COMMAND...
# ROOT is an empty folder; what is in IMAGE is copied there, DATA becomes /data, and SHARED are folders that are there at
# their own paths, read-only.
set -eu
root=$1 image=$2 data=$3 shared=$4 user=$5
shift 5
mount --make-rprivate /
mount -t tmpfs -o mode=0755 none "$root"
cp -R "$image/." "$root"
for path in /usr /etc /bin /lib /lib64 /sbin; do
    if [ -L "$path" ]; then
        cp -P "$path" "$root$path"
    elif [ -d "$path" ]; then
        mkdir "$root$path"
        mount --bind -o ro "$path" "$root$path"
    fi
done
mkdir "$root/tmp"
mount -t tmpfs -o mode=1777 none "$root/tmp" # before what is shared, which may be in /tmp
for path in $shared; do
    mkdir -p "$root$path"
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done
mkdir -p "$root/proc" "$root/dev" "$root/tmp" "$root/data"
mount -t proc none "$root/proc"
mount -t tmpfs none "$root/dev"
for device in null zero urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777 none "$root/dev/shm"
mount --bind "$data" "$root/data"
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all "$@"
