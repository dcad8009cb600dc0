from mmqsdt.cli.calibrate import main

if __name__ == '__main__':
    main()
