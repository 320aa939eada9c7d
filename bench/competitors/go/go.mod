module mailrail/bench

go 1.19
