#!/bin/sh
# Calls stack for what the tests call docker for. BIN is the directory of this file.
case $1 in
attach | commit | cp | create | diff | exec | export | kill | logs | pause | port | ps | rename | restart | rm | run | start | stats | stop | top | unpause | update | wait)
	exec BIN/docker-compose container "$@" ;;
build | history | import | load | pull | push | save | tag)
	exec BIN/docker-compose image "$@" ;;
images)
	shift
	exec BIN/docker-compose image ls "$@" ;;
rmi)
	shift
	exec BIN/docker-compose image rm "$@" ;;
info)
	# Thus the tests ask whether a store keeps an image's platforms side by side,
	# which stack's does.
	case $* in *DriverStatus*)
		echo '[["driver-type","io.containerd.snapshotter.v1"]]'
		exit ;;
	esac
	exec BIN/docker-compose system "$@" ;;
events)
	exec BIN/docker-compose system "$@" ;;
esac
exec BIN/docker-compose "$@"
